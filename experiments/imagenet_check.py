"""Top-1 accuracy of an ImageNet classifier on a small sample: shows that a conversion is right."""

from pathlib import Path

import torch
from torch import nn

from digit.data.images import open_images
from digit.data.loader import Report, stream
from digit.errors import DigitError


@torch.inference_mode()
def top1(
    network: nn.Module,
    images: Path,
    *,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> float:
    """Share of pictures, centre-cropped to size px, whose largest logit is their class (sorted wnids).

    Raises DigitError if `images` does not have the 1,000 class folders.
    """
    source = open_images(images)
    if len(source.classes) != 1000 or source.labels is None:
        raise DigitError(
            f"{images} has {len(source.classes)} class folders: give ImageNet's 1,000, named by wnid"
        )
    network.eval()
    center, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    right = seen = 0
    for indices, pixels in stream(source, size, batch_size=100, report=Report(), strict=True):
        guess = network((pixels[:, 0] / 255 - center) / scale).argmax(1)
        right += int((guess == torch.from_numpy(source.labels[indices])).sum())
        seen += len(indices)
    return right / seen

"""features -> accuracy: what a frozen network's features know, without training anything on top."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from digit.data.images import open_images
from digit.data.loader import load_pixels
from digit.errors import DigitError


def labelled_pixels(
    path: Path, size: int, *, device: torch.device
) -> tuple[UInt8[Tensor, "n 3 h w"], Int[Tensor, " n"]]:
    """A set to measure on: its readable pictures in memory and their labels on `device`.

    Raises:
        DigitError: the pictures have no labels.
    """
    source = open_images(path)
    if source.labels is None:
        raise DigitError(f"{path} has no labels: give pictures in one folder per class")
    index, pixels = load_pixels(source, np.arange(len(source)), size)
    return pixels, torch.from_numpy(source.labels[index]).to(device)


@torch.inference_mode()
def knn_accuracy(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    *,
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test features whose k nearest vote for their label, weighted by exp(cosine / temperature).

    DINO's protocol (arXiv:2104.14294, section 4.1).
    """
    train, test = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    classes = int(train_labels.max()) + 1
    right = 0
    for features, labels in zip(test.split(1000), test_labels.split(1000), strict=True):
        cosine, index = (features @ train.T).topk(min(k, len(train)), dim=1)
        votes = torch.zeros(len(features), classes, device=train.device)
        votes.scatter_add_(1, train_labels[index], (cosine / temperature).exp())
        right += int((votes.argmax(1) == labels).sum())
    return right / len(test)


@torch.inference_mode()
def embed(
    network: Callable[[Tensor], Tensor],
    pixels: UInt8[Tensor, "n 3 h w"],
    *,
    device: torch.device,
    batch_size: int = 1000,
) -> Tensor:
    """`network` of all pictures (uint8, in memory), in batches, float32 on `device`; bf16 inside on a GPU."""
    rows = []
    for part in pixels.split(batch_size):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            rows.append(network(part.to(device).float() / 255).float())
    return torch.cat(rows)

"""pixels -> features, labels: a small residual network (a ResNet-9) that measures pictures of 32 px."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from digit.errors import DigitError
from digit.nn.batch import PixelBatch


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier's shape, its input, and the augmentation of its training."""

    classes: int  # labels are 0 .. classes - 1
    width: int = 64  # channels of the first layer; the features have 8 times as many
    image_size: int = 32  # px; other sizes are resized to it
    # Mean and deviation of the training pixels, in [0, 1] (CIFAR-10's).
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)
    label_smoothing: float = 0.1  # share of the target spread over all classes
    pad: int = 4  # px of reflected border that the random crop of training moves in
    cutout: int = 8  # px, side of the square that training blanks; 0 = none
    mix: float = 0.0  # share of training pictures that get a part of another, and its label by area


class Classifier(nn.Module):
    """A stage: train it with the one loop; artifacts store it as kind `classifier`.

    CIFAR-10, batch 512, bf16: 3,000 steps of AdamW (lr 2e-3, betas (0.9, 0.99), weight decay 0.1, cosine, 300
    steps of warm-up, clip 1.0). 6.6M parameters at width 64; normalised by batch in training, so measure in
    `eval()`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        # Constants of the config, not weights: they stay out of the artifact's tensors.
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        width = config.width
        self.trunk = nn.Sequential(
            _convolution(3, width),
            _convolution(width, 2 * width),
            nn.MaxPool2d(2),
            _Residual(2 * width),
            _convolution(2 * width, 4 * width),
            nn.MaxPool2d(2),
            _convolution(4 * width, 8 * width),
            nn.MaxPool2d(2),
            _Residual(8 * width),
        )
        self.head = nn.Linear(8 * width, config.classes)

    def features(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Pooled features before the last layer, 8 * width of them, of pixels in [0, 1] of any size."""
        size = self.config.image_size
        if pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return self._pool((pixels - self.mean) / self.std)

    def logits(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        """Class logits of pixels in [0, 1] of any size."""
        return self.head(self.features(pixels))

    forward = logits

    def loss(self, batch: PixelBatch) -> Float[Tensor, ""]:
        """Smoothed cross-entropy; in train mode the pixels are flipped, cropped and cut out on their device.

        Raises DigitError if the batch has no labels or its pictures are not of the config's size.
        """
        size = self.config.image_size
        if batch.labels is None:
            raise DigitError("a classifier needs labels: give images in one folder per class")
        if batch.pixels.shape[-2:] != (size, size):
            raise DigitError(
                f"the classifier trains on {size} px pictures, these have {tuple(batch.pixels.shape[-2:])}"
            )
        pixels = (batch.pixels - self.mean) / self.std
        if self.training:
            pixels = augment(pixels, pad=self.config.pad, cutout=self.config.cutout)
        foreign = None
        if self.training and self.config.mix:
            pixels, foreign = mix(pixels, self.config.mix)
        logits = self.head(self._pool(pixels)).float()
        how: dict[str, Any] = {"label_smoothing": self.config.label_smoothing, "reduction": "none"}
        losses = F.cross_entropy(logits, batch.labels, **how)
        if foreign is not None:
            losses = torch.lerp(losses, F.cross_entropy(logits, batch.labels.flip(0), **how), foreign)
        return losses.mean()

    def _pool(self, standardised: Tensor) -> Tensor:
        # channels_last: the layout in which tensor cores convolve; the weights keep theirs, so saved states
        # stay plain.
        return self.trunk(standardised.contiguous(memory_format=torch.channels_last)).mean((2, 3))


class _Residual(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


def augment(pixels: Float[Tensor, "b c h w"], *, pad: int, cutout: int) -> Float[Tensor, "b c h w"]:
    """Mirror half of the pictures, move each by up to `pad` px over a reflected border, blank a square.

    Drawn from torch's generator of the pixels' device; every picture has its own draw. `cutout` is the
    square's side in px; it lies wholly inside the picture.
    """
    b, _, h, w = pixels.shape
    device = pixels.device
    rows, columns = torch.arange(h, device=device), torch.arange(w, device=device)
    flip = torch.rand(b, 1, device=device) < 0.5
    down, right = (torch.randint(2 * pad + 1, (b, 1), device=device) for _ in range(2))
    source_rows = rows + down
    source_columns = torch.where(flip, w - 1 - columns, columns) + right
    padded = F.pad(pixels, (pad, pad, pad, pad), mode="reflect") if pad else pixels
    picture = torch.arange(b, device=device).view(b, 1, 1)
    # One gather for mirror and crop; indexing around the channels puts them last, which is what the network
    # wants.
    moved = padded[picture, :, source_rows[:, :, None], source_columns[:, None, :]].permute(0, 3, 1, 2)
    if cutout:
        top = torch.randint(h - cutout + 1, (b, 1), device=device)
        left = torch.randint(w - cutout + 1, (b, 1), device=device)
        in_rows = (rows >= top) & (rows < top + cutout)
        in_columns = (columns >= left) & (columns < left + cutout)
        moved = moved.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)
    return moved


def mix(
    pixels: Float[Tensor, "b c h w"], share: float
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
    """Give a share of the pictures a rectangle of another one; also the part of each that is foreign.

    The other one is that of the batch read backwards. CutMix (arXiv:1905.04899) with its uniform area; the
    rectangle is cut off at the border. Drawn from torch's generator of the pixels' device.
    """
    b, _, h, w = pixels.shape
    device = pixels.device
    side = torch.rand(b, 1, device=device).sqrt()
    inside = []
    for length in (h, w):
        places = torch.arange(length, device=device) + 0.5
        middle = length * torch.rand(b, 1, device=device)
        inside.append((places - middle).abs() < side * length / 2)
    chosen = torch.rand(b, 1, 1, device=device) < share
    patch = inside[0][:, :, None] & inside[1][:, None, :] & chosen
    return torch.where(patch[:, None], pixels.flip(0), pixels), patch.float().mean((1, 2))

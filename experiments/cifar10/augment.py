"""pixels -> views: SimCLR's random crops and colours, drawn per picture, for a whole batch on its device.

Crops are one bilinear `grid_sample` (the flip is a negative width); colours follow torchvision's ColorJitter
in a fixed order, with the hue turned in the YIQ plane instead of through HSV, without branches. All of it is
elementwise but the sampling, nothing waits for the device, and autocast changes nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ViewConfig:
    """One kind of view: how large a part it shows and how far its colours are from the picture's."""

    size: int = 32  # px, side of the view
    scale: tuple[float, float] = (0.2, 1.0)  # share of the picture's area that the crop covers
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the crop
    jitter: float = 0.8  # probability of the colour changes below
    brightness: float = 0.4  # factor in 1 +- this
    contrast: float = 0.4  # factor in 1 +- this
    saturation: float = 0.4  # factor in 1 +- this
    hue: float = 0.1  # turns, +- this
    grey: float = 0.2  # probability
    solarize: float = 0.0  # probability


TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
TO_RGB = np.linalg.inv(TO_YIQ)


def augment(pixels: Float[Tensor, "b 3 h w"], config: ViewConfig) -> Float[Tensor, "b 3 s s"]:
    """A fresh random view of each picture, pixels in [0, 1], drawn from torch's generator of their device."""
    return recolor(crop(pixels, config), config)


def crop(pixels: Float[Tensor, "b 3 h w"], config: ViewConfig) -> Float[Tensor, "b 3 s s"]:
    """A random resized crop, mirrored with probability one half. Edges are never crossed."""
    b, _, height, width = pixels.shape
    area, shape, across, down, mirror = torch.rand(5, b, device=pixels.device)
    area = config.scale[0] + area * (config.scale[1] - config.scale[0])
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    shape = torch.exp(low + shape * (high - low))
    # Sides as shares of the picture's. A crop that would not fit is cut to it (torchvision draws again).
    w = (area * shape * (height / width)).sqrt().clamp(max=1)
    h = (area / shape * (width / height)).sqrt().clamp(max=1)
    x, y = (2 * across - 1) * (1 - w), (2 * down - 1) * (1 - h)  # centres, in grid_sample's [-1, 1]
    w = torch.where(mirror < 0.5, w, -w)
    places = (2 * torch.arange(config.size, device=pixels.device) + 1) / config.size - 1  # pixel centres
    columns = (x[:, None] + w[:, None] * places)[:, None, :].expand(-1, config.size, -1)
    rows = (y[:, None] + h[:, None] * places)[:, :, None].expand(-1, -1, config.size)
    grid = torch.stack((columns, rows), 3)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def recolor(pixels: Float[Tensor, "b 3 s s"], config: ViewConfig) -> Float[Tensor, "b 3 s s"]:
    """Brightness, contrast, saturation and hue with probability `jitter`; then grey, then solarised."""
    b, device = len(pixels), pixels.device
    draw = torch.rand(7, b, 1, 1, 1, device=device)
    change = (draw[0] < config.jitter).to(pixels.dtype)

    def factor(row: int, reach: float) -> Tensor:
        return 1 + change * reach * (2 * draw[row] - 1)

    pixels = (pixels * factor(1, config.brightness)).clamp(0, 1)
    mean = _luma(pixels).mean((2, 3), keepdim=True)
    pixels = torch.lerp(mean, pixels, factor(2, config.contrast)).clamp(0, 1)
    pixels = torch.lerp(_luma(pixels), pixels, factor(3, config.saturation)).clamp(0, 1)
    pixels = _turn_hue(pixels, change * config.hue * (2 * draw[4] - 1)).clamp(0, 1)
    pixels = torch.where(draw[5] < config.grey, _luma(pixels), pixels)
    return torch.where((draw[6] < config.solarize) & (pixels >= 0.5), 1 - pixels, pixels)


def _luma(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """TO_RGB @ rotation @ TO_YIQ, written out: numbers instead of matrices, for the compiler to fuse."""
    cos, sin = (2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()
    channels, turned = pixels.split(1, dim=1), []
    for y, i, q in TO_RGB.tolist():
        total = torch.zeros_like(channels[0])
        for channel, to_y, to_i, to_q in zip(channels, *TO_YIQ.tolist(), strict=True):
            total = total + channel * (y * to_y + cos * (i * to_i + q * to_q) + sin * (q * to_i - i * to_q))
        turned.append(total)
    return torch.cat(turned, 1)

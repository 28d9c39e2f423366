"""pixels -> views: SimCLR's random crops and colours, each drawn per picture, for a whole batch on its device.

Crops are one bilinear `grid_sample` (with the flip in the same matrix); colours follow torchvision's ColorJitter in a
fixed order, with the hue turned in the YIQ plane instead of through HSV: a matrix product instead of branches.
"""

import math
from dataclasses import dataclass

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


GREY = (0.299, 0.587, 0.114)
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def augment(pixels: Float[Tensor, "b 3 h w"], config: ViewConfig) -> Float[Tensor, "b 3 s s"]:
    """A fresh random view of each picture, pixels in [0, 1], drawn from torch's generator of the pixels' device."""
    return recolor(crop(pixels, config), config)


def crop(pixels: Float[Tensor, "b 3 h w"], config: ViewConfig) -> Float[Tensor, "b 3 s s"]:
    """A random resized crop, mirrored with probability one half. Edges are never crossed."""
    b, _, height, width = pixels.shape
    area, shape, across, down, mirror = torch.rand(5, b, device=pixels.device)
    area = config.scale[0] + area * (config.scale[1] - config.scale[0])
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    shape = torch.exp(low + shape * (high - low))
    # Sides as shares of the picture's. A crop that would not fit is cut to the picture (torchvision draws again).
    w = (area * shape * (height / width)).sqrt().clamp(max=1)
    h = (area / shape * (width / height)).sqrt().clamp(max=1)
    x, y = (2 * across - 1) * (1 - w), (2 * down - 1) * (1 - h)  # centres, in grid_sample's [-1, 1]
    w = torch.where(mirror < 0.5, w, -w)
    zero = torch.zeros_like(w)
    matrix = torch.stack((torch.stack((w, zero, x), 1), torch.stack((zero, h, y), 1)), 1)
    grid = F.affine_grid(matrix, [b, 3, config.size, config.size], align_corners=False)
    return F.grid_sample(pixels, grid.to(pixels.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def recolor(pixels: Float[Tensor, "b 3 s s"], config: ViewConfig) -> Float[Tensor, "b 3 s s"]:
    """Brightness, contrast, saturation and hue with probability `jitter`; then grey, then solarised."""
    b, device = len(pixels), pixels.device
    draw = torch.rand(7, b, 1, 1, 1, device=device)
    change = (draw[0] < config.jitter).to(pixels.dtype)

    def factor(row: int, reach: float) -> Tensor:
        return 1 + change * reach * (2 * draw[row] - 1)

    grey = torch.tensor(GREY, device=device, dtype=pixels.dtype).view(1, 3, 1, 1)
    pixels = (pixels * factor(1, config.brightness)).clamp(0, 1)
    mean = (pixels * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    pixels = torch.lerp(mean, pixels, factor(2, config.contrast)).clamp(0, 1)
    luma = (pixels * grey).sum(1, keepdim=True)
    pixels = torch.lerp(luma, pixels, factor(3, config.saturation)).clamp(0, 1)
    pixels = _turn_hue(pixels, (change * config.hue * (2 * draw[4] - 1)).flatten()).clamp(0, 1)
    luma = (pixels * grey).sum(1, keepdim=True)
    pixels = torch.where(draw[5] < config.grey, luma, pixels)
    return torch.where((draw[6] < config.solarize) & (pixels >= 0.5), 1 - pixels, pixels)


def _turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    to_yiq = torch.tensor(YIQ, device=pixels.device, dtype=pixels.dtype)
    angle = 2 * math.pi * turns
    one, zero, cos, sin = torch.ones_like(angle), torch.zeros_like(angle), angle.cos(), angle.sin()
    turn = torch.stack((one, zero, zero, zero, cos, -sin, zero, sin, cos), 1).view(-1, 3, 3)
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("bij,bjhw->bihw", matrix, pixels)

"""Pixels -> one picture for people to look at."""

import math

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image


def grid(pixels: UInt8[torch.Tensor, "n 3 h w"], *, columns: int | None = None, gap: int = 2) -> Image.Image:
    """Pictures row by row on white, as many columns as rows if not said; small ones are enlarged."""
    count, _, height, width = pixels.shape
    across = columns or math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    zoom = max(1, 96 // height)
    tile = np.full(
        (down * (height * zoom + gap) + gap, across * (width * zoom + gap) + gap, 3), 255, np.uint8
    )
    for i, picture in enumerate(pixels.permute(0, 2, 3, 1).cpu().numpy()):
        top = gap + (i // across) * (height * zoom + gap)
        left = gap + (i % across) * (width * zoom + gap)
        large = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
        tile[top : top + height * zoom, left : left + width * zoom] = large
    return Image.fromarray(tile)

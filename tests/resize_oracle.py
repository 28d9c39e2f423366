"""Pillow's antialiased resize in numpy: whole numbers of 22 bits, bytes after each axis, rows first."""

import numpy as np
from PIL import Image

SUPPORT = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}


def resized(
    pixels: np.ndarray,
    size: tuple[int, int],
    resample: Image.Resampling,
    box: tuple[float, float, float, float],
) -> np.ndarray:
    """(height, width, 3) uint8 -> (size[1], size[0], 3)."""
    for axis, start, end, count in ((1, box[0], box[2], size[0]), (0, box[1], box[3], size[1])):
        pixels = along(np.moveaxis(pixels, axis, 0), start, end, count, resample)
        pixels = np.moveaxis(pixels, 0, axis)
    return pixels


def along(lines: np.ndarray, start: float, end: float, count: int, resample: Image.Resampling) -> np.ndarray:
    """`count` lines out of those from `start` to `end`."""
    low, high = np.float32(start), np.float32(end)  # as Pillow holds a box
    step = np.float64(high - low) / count
    stretch = max(step, 1.0)
    reach = SUPPORT[resample] * stretch
    found = []
    for place in range(count):
        centre = np.float64(low) + (place + 0.5) * step
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), len(lines))
        weights = [weight((line - centre + 0.5) * (1 / stretch), resample) for line in range(first, last)]
        total = 0.0
        for each in weights:
            total += each
        whole = [int(each / total * (1 << 22) + (0.5 if each >= 0 else -0.5)) for each in weights]
        seen = lines[first:last].astype(np.int64)
        summed = (seen * np.array(whole).reshape(-1, 1, 1)).sum(0) + (1 << 21)
        found.append((summed >> 22).clip(0, 255).astype(np.uint8))
    return np.stack(found)


def weight(x: float, resample: Image.Resampling) -> float:
    """The kernel; bicubic with a = -1/2."""
    x, a = abs(x), -0.5
    if resample == Image.Resampling.BILINEAR:
        return 1 - x if x < 1 else 0.0
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0

"""An RGB picture -> a square of pixels: the plain view, its mirror, and crops that a name and a seed fix."""

import hashlib
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

ENLARGED = 1.125  # random crops: the short side is resized to at most this many times the size (256 -> 288)


def render(
    image: Image.Image, size: int, *, view: int = 0, seed: int = 0, name: str = ""
) -> UInt8[np.ndarray, "3 {size} {size}"]:
    """A square of `size` pixels, values 0 to 255.

    View 0: short side to `size` (bicubic with antialias), centre crop. View 1: its mirror image. View 2 and
    up: short side to somewhere within [size, 1.125 size], random crop, random flip, all fixed by (seed, name,
    view). A picture that already has the size is not resampled.
    """
    width, height = image.size
    if view < 2:
        short, across, down, mirror = size, 0.5, 0.5, view == 1
    else:
        across, down, zoom, coin = _uniforms(f"{seed}/{view}/{name}")
        short = size + int(zoom * (int(size * ENLARGED) - size + 1))
        mirror = coin < 0.5
    if (width, height) != (size, size) or short != size:
        box = _box(width, height, size, short, across, down)
        image = resize(image, (size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(image).transpose(2, 0, 1)
    return np.array(pixels[:, :, ::-1] if mirror else pixels, order="C")


def resize(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling,
    *,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Pillow's antialiased resize of a part of a picture, along the rows first and then along the columns.

    Bytes are rounded after each axis, so the order shows, by a few levels. Before its version 13 Pillow knew
    this order alone, in one call; since then it takes the other where that is less work, as for pictures that
    are higher than wide. So codes are the same in all versions, and those of the published code.
    """
    width, height = image.size
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    shown = bottom - top
    if height > 4 * shown:  # of a very high picture only the rows that are seen, and some beyond
        reach = 3 * max(1.0, shown / size[1])
        first, last = max(0, math.floor(top - reach)), min(height, math.ceil(bottom + reach))
        image = image.crop((0, first, width, last))
        top, bottom, height = top - first, bottom - first, last - first
    across = image.resize((size[0], height), resample, box=(left, 0, right, height))
    return across.resize(size, resample, box=(0, top, size[0], bottom))


def _box(
    width: int, height: int, size: int, short: int, across: float, down: float
) -> tuple[float, float, float, float]:
    """The part of the picture that a size x size crop of the resized picture shows.

    Resampling only this part gives the crop of the whole resized picture at the cost of the crop: a picture
    of 1 x 60,000 pixels would otherwise grow to 256 x 15 million.
    """
    if width < height:
        wide, high = short, int(short * height / width)
    else:
        wide, high = int(short * width / height), short
    left, top = round(across * (wide - size)), round(down * (high - size))
    x, y = width / wide, height / high
    return left * x, top * y, min((left + size) * x, width), min((top + size) * y, height)


def _uniforms(key: str) -> list[float]:
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    return [int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in range(0, 32, 8)]

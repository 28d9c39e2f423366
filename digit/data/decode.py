"""File bytes -> an upright RGB picture, or one reason why not."""

import logging
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from digit.data.bounds import BoundedReads, TooMuch, check_parts

# Named formats only: Pillow would otherwise also try readers that start other programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")

# What Pillow's readers raise on damaged files; a plain `except OSError` misses a tenth of them.
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what undoes it

# Pillow also logs some damage; without any handler Python would print that.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class BrokenImage(ValueError):
    """A picture that cannot be read; the message is the reason, without the file's name."""


def decode(data: bytes, *, max_pixels: int = 64_000_000) -> Image.Image:
    """The picture in `data` as mode RGB, turned upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit pictures are converted, transparency is laid on white, and an animation
    gives its first frame. The size in the header is checked against `max_pixels` before any pixel is decoded,
    and what lies beside the pixels is bounded (`digit.data.bounds`).
    Raises BrokenImage for whatever is no whole picture.
    """
    if not data:
        raise BrokenImage("the file is empty")
    with _quiet_pillow():
        try:
            check_parts(data)
            file = BoundedReads(data)
            image = Image.open(file, formats=_FORMATS)
            width, height = image.size
            if width < 1 or height < 1:
                raise BrokenImage(f"its header says {width} x {height} pixels")
            if width * height > max_pixels:
                raise BrokenImage(f"its header says {width} x {height} pixels, more than {max_pixels:,}")
            file.pixels_follow()
            image.load()
            if image.format == "TIFF" or "exif" in image.info or "xmp" in image.info:
                image = _upright(image)
            return image if image.mode == "RGB" and "transparency" not in image.info else _to_rgb(image)
        except BrokenImage:
            raise
        except TooMuch as error:
            raise BrokenImage(str(error)) from None
        except UnidentifiedImageError:
            raise BrokenImage("not a picture in a known format") from None
        except _FAILURES as error:
            text = " ".join(str(error).split())[:200]
            raise BrokenImage(f"{type(error).__name__}: {text}" if text else type(error).__name__) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(0x0112)
    except _FAILURES:
        return image  # damaged EXIF beside good pixels: one ImageNet photo is like that
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    if method is None or image.format == "TIFF":  # Pillow turns TIFF itself while it loads
        return image
    turned = image.transpose(method)
    turned.info = image.info
    return turned


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise BrokenImage("its grey values exceed 16 bits")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise BrokenImage("its floating-point values are not all in [0, 1]")
        return Image.fromarray((values * 255 + 0.5).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode.endswith(("A", "a")):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


_silence = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_lock = threading.Lock()
_decoding = 0


def _after_fork() -> None:
    """In a new process no thread decodes, whatever the others of the old one were doing."""
    global _lock, _decoding
    _lock, _decoding = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keeps Pillow's warnings about odd files from the user, in any number of threads.

    `warnings.catch_warnings` saves and restores the whole filter list, which threads do in the wrong order;
    here one entry goes in with the first picture and out with the last.
    """
    global _decoding
    with _lock:
        _decoding += 1
        if _decoding == 1:
            warnings.filters.insert(0, _silence)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if _decoding == 0 and _silence in warnings.filters:
                warnings.filters.remove(_silence)  # type: ignore[attr-defined]

"""File bytes -> an upright RGB picture, or one reason why not.

What a file may hold besides its pixels is bounded, so that none takes seconds or gigabytes: Pillow reads
headers in Python, part by part, and copies some of them each time another one comes. 50 MB of EXIF take it
half a minute, a few MB of empty parts seconds, and a JPEG of a few kB can ask for thousands of passes over
all of its pixels. Ordinary files stay far below these bounds.
"""

import logging
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from digit.errors import DigitError

# Named formats only: Pillow would otherwise also try readers that start other programs (EPS).
AVIF = "avif" in features.modules and features.check_module("avif")  # Pillow 11.3 or newer, built with it
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", *(("AVIF",) if AVIF else ()))

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

_READS = 8_000  # of the header: Pillow takes about a microsecond for each
_HEADER = 12 * 2**20  # bytes of the header; a phone's depth map in a JPEG takes five million
_TIFF_HEADER = 24 * 2**20  # likewise of a TIFF, which keeps layers and profiles beside the pixels
_EXIF = 2 * 2**20  # bytes of EXIF in a JPEG, which Pillow copies once a segment
_SCANS = 32  # passes of a progressive JPEG; encoders write about ten
_BLOCK, _FILL = 2**20, 1000  # bytes searched at once, and pairs of fill bytes allowed in them
_SMALL, _MEGABYTES = "it consists of too many small parts", "it holds many megabytes that are no pixels"
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in the stream of a JPEG, past restarts and fill bytes

_PNG = b"\x89PNG\r\n\x1a\n"
# What stands before compressed profiles and texts: name, keyword, and in iTXt language and translation.
_COMPRESSED = re.compile(rb"(?:iCCP|zTXt)[^\x00]*\x00\x00|iTXt[^\x00]*\x00\x01\x00[^\x00]*\x00[^\x00]*\x00")
_INFLATES, _INFLATED = 1000, 2**20  # bytes: of so many zlib can make a megabyte, which Pillow takes at most

# Formats of parts: how the file begins, where the first part is, how length and name are written, how many
# bytes the length leaves out, to what parts are filled up, and which parts are pixels.
_PARTS = (
    (_PNG, 8, ">I4s", 12, 1, (b"IDAT", b"fdAT")),
    (b"RIFF", 12, "<4sI", 8, 2, (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")),
    (b"\0\0\0\x0cjP  ", 0, ">I4s", 0, 1, (b"jp2c",)),
)

# Pillow also logs some damage; without any handler Python would print that.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class BrokenImage(ValueError):
    """A picture that cannot be read; the message is the reason, without the file's name."""


def decode(data: bytes, *, max_pixels: int = 64_000_000) -> Image.Image:
    """The picture in `data` as mode RGB, turned upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit pictures are converted, transparency is laid on white, and an animation
    gives its first frame. The size in the header is checked against `max_pixels` before any pixel is decoded,
    and what lies beside the pixels is bounded. Raises BrokenImage for whatever is no whole picture.
    """
    if not data:
        raise BrokenImage("the file is empty")
    with _quiet_pillow():
        try:
            check_parts(data)
            file = BoundedReads(_without_profiles(data))
            image = Image.open(file, formats=_FORMATS)
            width, height = image.size
            if width < 1 or height < 1:
                raise BrokenImage(f"its header says {width} x {height} pixels")
            if width * height > max_pixels:
                raise BrokenImage(f"its header says {width} x {height} pixels, more than {max_pixels:,}")
            file.pixels_follow()
            return _upright_rgb(image)
        except BrokenImage:
            raise
        except TooMuch as error:
            raise BrokenImage(str(error)) from None
        except UnidentifiedImageError:
            raise BrokenImage("not a picture in a known format") from None
        except _FAILURES as error:
            raise _broken(error) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture that Pillow has opened or made, as `decode` gives it; BrokenImage where it cannot be read."""
    with _quiet_pillow():
        try:
            return _upright_rgb(image)
        except BrokenImage:
            raise
        except _FAILURES as error:
            raise _broken(error) from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.format == "TIFF" or "exif" in image.info or "xmp" in image.info:
        image = _upright(image)
    return image if image.mode == "RGB" and "transparency" not in image.info else _to_rgb(image)


def _broken(error: BaseException) -> BrokenImage:
    text = " ".join(str(error).split())[:200]
    return BrokenImage(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _without_profiles(data: bytes) -> bytes:
    """A PNG without profiles and texts that inflate to more than a megabyte, for which Pillow refuses it.

    No pixel depends on them. TooMuch where they inflate beyond what a header may have.
    """
    if not data.startswith(_PNG):
        return data
    kept, place, inflated = [_PNG], len(_PNG), 0
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        start = _COMPRESSED.match(data, place + 4, min(end, place + 400))
        size = _inflated(data[start.end() : end - 4]) if start and end - place > _INFLATES else 0
        if (inflated := inflated + size) > _HEADER:
            raise TooMuch(_MEGABYTES)
        if size <= _INFLATED:
            kept.append(data[place:end])
        place = end
    return b"".join(kept) if inflated > _INFLATED else data


def _inflated(data: bytes) -> int:
    """Bytes that zlib makes of some, counted no further than a header may reach."""
    stream, size = zlib.decompressobj(), 0
    try:
        while data and size <= _HEADER:
            size += len(stream.decompress(data, 2**16))
            data = stream.unconsumed_tail
    except zlib.error:
        pass
    return size


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


class TooMuch(DigitError):
    """A picture file holds more than a picture needs; no ValueError, which Pillow's readers would catch."""


class BoundedReads(BytesIO):
    """The bytes of a picture file, read a limited number of times: TooMuch beyond that."""

    def __init__(self, data: bytes) -> None:
        """Bounded as a header until `pixels_follow` is called."""
        super().__init__(data)
        tiff = data[:2] in (b"II", b"MM")
        self._reads, self._bytes, self._length = _READS, _TIFF_HEADER if tiff else _HEADER, len(data)

    def pixels_follow(self) -> None:
        """From here on bytes are pixels, in parts of a kilobyte or more."""
        self._reads, self._bytes = 5 * _READS + self._length // 1000, 4 * self._length + _HEADER

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        data = super().read(size)
        self._reads -= 1
        self._bytes -= len(data)
        if self._reads < 0:
            raise TooMuch(_SMALL)
        if self._bytes < 0:
            raise TooMuch(_MEGABYTES)
        return data


def check_parts(data: bytes) -> None:
    """TooMuch if the parts of a JPEG, PNG, WebP or JPEG 2000 are too many or mostly no pixels."""
    if data[:2] == b"\xff\xd8":
        _check_jpeg(data)
    for magic, place, form, left_out, fill, pixels in _PARTS:
        if data.startswith(magic):
            parts = beside = 0
            while place + 8 <= len(data):
                length, name = struct.unpack_from(form, data, place)
                if isinstance(length, bytes):
                    length, name = name, length
                elif left_out == 0 and length == 1 and place + 16 <= len(data):
                    length = struct.unpack_from(">Q", data, place + 8)[0]  # JPEG 2000's long form
                parts, beside = parts + 1, beside + (0 if name in pixels else length)
                if parts > _READS + len(data) // 1000:
                    raise TooMuch(_SMALL)
                if min(beside, len(data)) > _HEADER:
                    raise TooMuch(_MEGABYTES)
                if left_out + length == 0:  # JPEG 2000's word for "up to the end"
                    return
                place += left_out + length + -length % fill


def _check_jpeg(data: bytes) -> None:
    place, exif, scans, parts = 2, 0, 0, 0
    while True:
        marker = _next_marker(data, place)
        # Pillow would come to its bound of reads: it looks for the next segment of a header byte by byte.
        if not scans and (len(data) if marker is None else marker) - place > _READS:
            raise TooMuch("it holds kilobytes before its pixels that are no part of a JPEG")
        if marker is None:
            return
        place, kind = marker + 2, data[marker + 1]
        if kind == 0xD9:  # the end of the picture; phones append films and other pictures
            return
        if kind in (0x01, 0xD8):  # markers that stand alone
            continue
        length = struct.unpack_from(">H", data, place)[0] if place + 2 <= len(data) else 0
        if kind == 0xE1 and data[place + 2 : place + 6] == b"Exif":
            exif += length
        scans += kind == 0xDA
        parts += 1
        if exif > _EXIF:
            raise TooMuch("it holds megabytes of EXIF")
        if scans > _SCANS:
            raise TooMuch(f"it would be decoded in more than {_SCANS} passes")
        if parts > _READS:
            raise TooMuch(_SMALL)
        place += length


def _next_marker(data: bytes, place: int) -> int | None:
    """Where the next marker of a JPEG is; fill bytes, which scans never hold, are counted block by block."""
    for start in range(place, len(data), _BLOCK):
        found = _MARKER.search(data, start, start + _BLOCK + 1)
        if data.count(b"\xff\xff", start, found.start() if found else start + _BLOCK) > _FILL:
            raise TooMuch(_SMALL)
        if found:
            return found.start()
    return None

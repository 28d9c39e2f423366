"""Bounds on what a picture file may hold besides its pixels, so that no file takes seconds or gigabytes.

Pillow reads headers in Python, part by part, and copies some of them each time another one comes: 50 MB of
EXIF take it half a minute, a few MB of empty parts seconds, and a JPEG of a few kB can ask for thousands of
passes over all of its pixels. Ordinary files stay far below these bounds.
"""

import re
import struct
from io import BytesIO

from digit.errors import DigitError

_READS = 8_000  # of the header: Pillow takes about a microsecond for each
_HEADER = 12 * 2**20  # bytes of the header; a phone's depth map in a JPEG takes five million
_TIFF_HEADER = 24 * 2**20  # likewise of a TIFF, which keeps layers and profiles beside the pixels
_EXIF = 2 * 2**20  # bytes of EXIF in a JPEG, which Pillow copies once a segment
_SCANS = 32  # passes of a progressive JPEG; encoders write about ten
_BLOCK, _FILL = 2**20, 1000  # bytes searched at once, and pairs of fill bytes allowed in them
_SMALL, _MEGABYTES = "it consists of too many small parts", "it holds many megabytes that are no pixels"
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in the stream of a JPEG, past restarts and fill bytes


# Formats of parts: how the file begins, where the first part is, how length and name are written, how many
# bytes the length leaves out, to what parts are filled up, and which parts are pixels.
_PARTS = (
    (b"\x89PNG\r\n\x1a\n", 8, ">I4s", 12, 1, (b"IDAT", b"fdAT")),
    (b"RIFF", 12, "<4sI", 8, 2, (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")),
    (b"\0\0\0\x0cjP  ", 0, ">I4s", 0, 1, (b"jp2c",)),
)


class TooMuch(DigitError):
    """A picture file holds more than a picture needs; the message says what."""


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

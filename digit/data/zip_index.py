"""A zip of pictures: its central directory read once, its members read at random from any thread."""

import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from digit.data.decode import BrokenImage
from digit.data.listing import LARGEST, Listing, ignore_reason
from digit.errors import DigitError

_ENCRYPTED = 1  # flag bit
_INFLATED, _RATIO = 2**25, 100  # a member of more bytes that inflates more than this is a bomb


def list_zip(path: Path) -> Listing:
    """The pictures of a zip file, stored or deflated. Raises DigitError when its directory cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError, struct.error) as error:
        raise DigitError(f"{path} is no readable zip file ({error}): copy or download it again") from error
    members: dict[str, zipfile.ZipInfo] = {}
    ignored = []
    overlapping = _overlapping(entries)
    for entry in entries:
        if entry.filename.endswith("/"):
            continue
        reason = ignore_reason(entry.filename) or _unreadable(entry)
        if reason is None and id(entry) in overlapping:
            reason = "overlaps another member"
        if reason is None and entry.filename in members:
            reason = "the name appears twice"
        if reason is None:
            members[entry.filename] = entry
        else:
            ignored.append((entry.filename, reason))
    names = sorted(members)
    # Numbers alone: zipfile's own entries are ten times as large, a gigabyte for ImageNet.
    spans = np.array([_span(members[name]) for name in names], dtype=np.int64).reshape(-1, 5)
    return Listing(
        names,
        names,
        lambda: spans[:, 2].tolist(),
        lambda i: _read(path, names[i], spans[i].tolist()),
        ignored,
    )


def read_span(path: Path, offset: int, length: int) -> bytes:
    """`length` bytes of a file from `offset`, fewer at its end; threads share no position."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


def _unreadable(entry: zipfile.ZipInfo) -> str | None:
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {entry.compress_type} is not supported"
    if max(entry.file_size, entry.compress_size) > LARGEST:
        return f"larger than {LARGEST:,} bytes"
    if entry.file_size > max(_INFLATED, _RATIO * entry.compress_size):
        return f"inflates more than {_RATIO}-fold, to {entry.file_size:,} bytes"
    return None


def _overlapping(entries: list[zipfile.ZipInfo]) -> set[int]:
    """The ids of entries that start before another one ends: a few bytes that are read a thousand times."""
    found: set[int] = set()
    end = 0
    for entry in sorted(entries, key=lambda each: each.header_offset):
        if entry.header_offset < end:
            found.add(id(entry))
        end = max(end, entry.header_offset + 30 + len(entry.orig_filename) + entry.compress_size)
    return found


def _span(entry: zipfile.ZipInfo) -> tuple[int, ...]:
    return entry.header_offset, entry.compress_size, entry.file_size, entry.CRC, entry.compress_type


def _read(path: Path, name: str, span: list[int]) -> bytes:
    offset, packed, size, checksum, method = span
    try:
        # The local header repeats the name and has its own extra field, whose length only it tells.
        guess = 30 + len(name.encode("utf-8", "surrogateescape")) + 64 + packed
        block = read_span(path, offset, guess)
        if len(block) < 30 or block[:4] != b"PK\x03\x04":
            raise BrokenImage("its header in the zip file is damaged")
        start = 30 + sum(struct.unpack("<HH", block[26:30]))
        data = block[start : start + packed]
        if len(data) < packed:
            data = read_span(path, offset + start, packed)
        if method == zipfile.ZIP_DEFLATED:
            # One byte more than announced is enough to see that a member inflates beyond its size.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except (OSError, zlib.error) as error:
        raise BrokenImage(f"cannot be read from the zip file: {error}") from error
    if len(data) != size or zlib.crc32(data) != checksum:
        raise BrokenImage("differs from its checksum in the zip file")
    return data

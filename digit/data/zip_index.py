"""A zip of pictures: its central directory read once, its members read at random from any thread."""

import os
import struct
import zipfile
import zlib
from pathlib import Path

from digit.data.decode import BrokenImage
from digit.data.listing import Listing, ignore_reason
from digit.errors import DigitError

_ENCRYPTED = 1  # flag bit
_LARGEST = 2**30  # bytes of one picture file; a header that says more is not believed


def list_zip(path: Path) -> Listing:
    """The pictures of a zip file, stored or deflated. Raises DigitError when its directory cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError, struct.error) as error:
        raise DigitError(f"{path} is no readable zip file ({error}): copy or download it again") from error
    members: dict[str, zipfile.ZipInfo] = {}
    ignored = []
    for entry in entries:
        if entry.is_dir():
            continue
        reason = ignore_reason(entry.filename) or _unreadable(entry)
        if reason is None and entry.filename in members:
            reason = "the name appears twice"
        if reason is None:
            members[entry.filename] = entry
        else:
            ignored.append((entry.filename, reason))
    names = sorted(members)
    chosen = [members[name] for name in names]
    return Listing(
        names, names, lambda: [entry.file_size for entry in chosen], lambda i: _read(path, chosen[i]), ignored
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
    if max(entry.file_size, entry.compress_size) > _LARGEST:
        return f"larger than {_LARGEST:,} bytes"
    return None


def _read(path: Path, entry: zipfile.ZipInfo) -> bytes:
    try:
        # The local header repeats the name and has its own extra field, whose length only it tells.
        guess = 30 + len(entry.filename.encode("utf-8", "surrogateescape")) + 64 + entry.compress_size
        block = read_span(path, entry.header_offset, guess)
        if len(block) < 30 or block[:4] != b"PK\x03\x04":
            raise BrokenImage("its header in the zip file is damaged")
        start = 30 + sum(struct.unpack("<HH", block[26:30]))
        data = block[start : start + entry.compress_size]
        if len(data) < entry.compress_size:
            data = read_span(path, entry.header_offset + start, entry.compress_size)
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            # One byte more than announced is enough to see that a member inflates beyond its size.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.file_size + 1)
    except (OSError, zlib.error) as error:
        raise BrokenImage(f"cannot be read from the zip file: {error}") from error
    if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
        raise BrokenImage("differs from its checksum in the zip file")
    return data

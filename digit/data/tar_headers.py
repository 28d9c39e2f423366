"""The members of an uncompressed tar file, from its headers alone (POSIX ustar, pax and GNU long names).

Python's own tarfile takes time that grows with the square of a header's length, and memory for every member;
this one is bounded whatever the file says.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from digit.errors import DigitError
from digit.opening import open_regular

_BLOCK = 512
_LARGEST_RECORD = 2**16  # bytes of a header that holds a long name; paths have at most 4,096
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_LONG_NAME, _LONG_LINK, _PAX, _PAX_OF_ALL = b"L", b"K", (b"x", b"X"), b"g"


class Member(NamedTuple):
    """One member as its header describes it."""

    name: str
    kind: str  # "file", "folder", "sparse", or "other": links and devices
    offset: int  # of its first byte
    size: int  # bytes


class Damaged(DigitError):
    """The headers are wrong from some byte on; the message says where and why."""


def read_members(path: Path) -> Iterator[Member]:
    """The members in the order of the file.

    Raises:
        Damaged: at the first header that is none; the members before it have been given.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        place, long_name, records = 0, None, {}
        while True:
            file.seek(place)
            header = file.read(_BLOCK)
            if not header.strip(b"\0"):
                if file.read(_BLOCK).strip(b"\0"):
                    raise Damaged(f"damaged at byte {place} (a block of zeros before others)")
                return
            try:
                name, length, kind = _parse(header)
                if kind in (_LONG_NAME, _LONG_LINK, *_PAX, _PAX_OF_ALL):
                    if length > _LARGEST_RECORD:
                        raise ValueError(f"a header of {length} bytes")
                    data = file.read(length)
                    if len(data) < length:
                        raise ValueError("the file ends within a header")
                    if kind == _LONG_NAME:
                        long_name = _text(data)
                    elif kind in _PAX:
                        records = _pax(data)
                    place += _BLOCK + _padded(length)
                    continue
                length = int(records.get("size", length)) if records.get("size", "0").isdecimal() else -1
                if length < 0:
                    raise ValueError("a size that is no number")
            except (ValueError, struct.error) as error:
                raise Damaged(f"damaged at byte {place} ({error})") from None
            sparse = any(key.startswith("GNU.sparse") for key in records)
            name = records.get("path") or long_name or name
            long_name, records = None, {}
            first = place + _BLOCK
            stored = 0 if kind in _WITHOUT_DATA else length
            if kind == b"S":  # GNU's sparse files go on with more headers, and are not read
                first = _after_sparse(file, header, first)
            folder = kind == b"5" or (kind in (b"\0", b"0") and name.endswith("/"))
            what = "folder" if folder else "file" if kind in _REGULAR and not sparse else "other"
            yield Member(name.rstrip("/"), "sparse" if sparse or kind == b"S" else what, first, length)
            place = first + _padded(stored)
            if place > size:  # the last member, cut short: the caller sees it by its size
                return


def _parse(header: bytes) -> tuple[str, int, bytes]:
    """Name, size in bytes and type of a header; ValueError if its checksum is not its own."""
    if len(header) < _BLOCK:
        raise ValueError("the file ends within a header")
    said = _number(header[148:156])
    rest = header[:148] + b" " * 8 + header[156:]
    # Some writers sum signed bytes.
    if said != sum(rest) and said != sum(rest) - 256 * sum(byte > 127 for byte in rest):
        raise ValueError("its checksum differs")
    length = _number(header[124:136])
    if length < 0:
        raise ValueError("a negative size")
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and (prefix := _text(header[345:500])):
        name = f"{prefix}/{name}"
    return name, length, header[156:157]


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary form for large and negative numbers."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    digits = field.split(b"\0", 1)[0].strip()
    if not set(digits) <= set(b"01234567"):
        raise ValueError("a number that is none")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _pax(data: bytes) -> dict[str, str]:
    """The records `length key=value\\n` of an extended header."""
    records: dict[str, str] = {}
    place = 0
    while place < len(data) and data[place]:
        digits, blank, _ = data[place : place + 8].partition(b" ")
        if not (digits.isdigit() and blank):
            raise ValueError("an extended header without lengths")
        end = place + int(digits)
        key, equals, value = data[place + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or end > len(data) or data[end - 1 : end] != b"\n":
            raise ValueError("an extended header whose lengths are wrong")
        records[_text(key)] = value.decode("utf-8", "surrogateescape")
        place = end
    return records


def _after_sparse(file: BinaryIO, header: bytes, place: int) -> int:
    """Where the data of an old GNU sparse file begins."""
    more = header[482]
    while more:
        file.seek(place)
        extension = file.read(_BLOCK)
        if len(extension) < _BLOCK:
            break
        more, place = extension[504], place + _BLOCK
    return place

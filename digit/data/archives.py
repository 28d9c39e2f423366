"""What a folder, a zip or tar shards hold: members named like pictures, read at random, never extracted."""

import json
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from digit.data.classes import plain, plainly_named
from digit.data.decode import AVIF, BrokenImage
from digit.data.tar_headers import Damaged, Member, read_members
from digit.errors import DigitError
from digit.opening import open_regular

LARGEST = 2**30  # bytes of a picture file; what claims more is not read
_JPEG = (".jfif", ".jpe", ".jpeg", ".jpg")
_OTHERS = (".bmp", ".gif", ".j2k", ".jp2", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
SUFFIXES = frozenset(_JPEG + _OTHERS + ((".avif",) if AVIF else ()))  # of the formats that `decode` reads
_UNREAD = frozenset((".avif", ".heic", ".heif", ".jxl")) - SUFFIXES
_ENCRYPTED, _UTF8 = 1, 1 << 11  # flag bits
_INFLATED, _RATIO = 2**25, 100  # a member of more bytes that inflates more than this is a bomb
_LARGEST_LABEL = 2**20  # bytes; a longer label file is an attack or damage


@dataclass(frozen=True)
class Listing:
    """Members that are named like pictures, in sorted order, and how to read them."""

    names: list[str]  # unique, sorted, plain
    places: list[str]  # plain paths within the data set; a name begins with its shard if there are several
    sizes: Callable[[], list[int]]  # bytes of each
    read: Callable[[int], bytes]  # the file of member i; raises BrokenImage
    ignored: list[tuple[str, str]]  # (member, reason), never read
    label_names: list[str | None] | None = None  # where the archive states labels beside the pictures
    notes: list[str] = field(default_factory=list)  # what the user should know of it


def ignore_reason(name: str) -> str | None:
    """Why a member of an archive or folder is no picture to read; None if it is one.

    Nothing is ever extracted, but a name that would leave the folder marks an archive made to do harm.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return "its path leads outside the archive"
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return "hidden"
    if path.suffix.lower() in _UNREAD:
        return "a format that is not read: convert it to PNG or JPEG"
    if path.suffix.lower() not in SUFFIXES:
        return "not named like a picture"
    return None


def list_zip(path: Path) -> Listing:
    """The pictures of a zip file, stored or deflated. Raises DigitError when its directory cannot be read."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError, struct.error) as error:
        raise DigitError(f"{path} is no readable zip file ({error}): copy or download it again") from error
    members: dict[str, zipfile.ZipInfo] = {}
    ignored = []
    overlapping = _overlapping(entries)
    for entry in entries:
        name = _written(entry)
        if name.endswith(("/", "\\")):
            continue
        reason = ignore_reason(name) or _unreadable(entry)
        if reason is None and id(entry) in overlapping:
            reason = "overlaps another member"
        elif reason is None and name in members:
            reason = "the name appears twice"
        if reason is None:
            members[name] = entry
        else:
            ignored.append((name, reason))
    named = plainly_named(members)
    names = [name for name, _ in named]
    # Numbers alone: zipfile's own entries are ten times as large, a gigabyte for ImageNet.
    fields = ("header_offset", "compress_size", "file_size", "CRC", "compress_type")
    rows = [[getattr(members[written], field) for field in fields] for _, written in named]
    spans = np.array(rows, dtype=np.int64).reshape(-1, len(fields))
    return Listing(
        names,
        [plain(name) for name in names],
        lambda: spans[:, 2].tolist(),
        lambda i: _read_zipped(path, names[i], spans[i].tolist()),
        ignored,
    )


def _written(entry: zipfile.ZipInfo) -> str:
    """The name of a member; many programs write UTF-8 without the flag that says so."""
    if entry.flag_bits & _UTF8 or entry.filename.isascii():
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode()
    except UnicodeError:
        return entry.filename


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
    found, end = set(), 0
    for entry in sorted(entries, key=lambda each: each.header_offset):
        if entry.header_offset < end:
            found.add(id(entry))
        end = max(end, entry.header_offset + 30 + len(entry.orig_filename) + entry.compress_size)
    return found


def _read_zipped(path: Path, name: str, span: list[int]) -> bytes:
    offset, packed, size, checksum, method = span
    try:
        # The local header repeats the name and has its own extra field, whose length only it tells.
        guess = 30 + len(name.encode("utf-8", "surrogateescape")) + 64 + packed
        block = _read_at(path, offset, guess)
        if len(block) < 30 or block[:4] != b"PK\x03\x04":
            raise BrokenImage("its header in the zip file is damaged")
        start = 30 + sum(struct.unpack("<HH", block[26:30]))
        data = block[start : start + packed]
        if len(data) < packed:
            data = _read_at(path, offset + start, packed)
        if method == zipfile.ZIP_DEFLATED:
            # One byte more than announced is enough to see that a member inflates beyond its size.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except (OSError, zlib.error) as error:
        raise BrokenImage(f"cannot be read from the zip file: {error}") from error
    if len(data) != size or zlib.crc32(data) != checksum:
        raise BrokenImage("differs from its checksum in the zip file")
    return data


def list_tars(paths: list[Path]) -> Listing:
    """The pictures of one or more uncompressed tar files, in the order of `paths`, then of names.

    A picture's label is the text of the `.cls` member, or "label" in the `.json` member, of its name up to
    the last dot, or to one before; of a sample `000.png`, `000.mask.png`, `000.cls` only the first is a
    picture. Links, devices, unsafe paths and everything else are listed as ignored. Raises DigitError when a
    file is no tar, or compressed.
    """
    found: list[tuple[str, str, Path, int, int]] = []  # name, place, shard, offset, bytes
    labels: list[str | None] = []
    ignored: list[tuple[str, str]] = []
    several = 0
    for path in paths:
        pictures, stated = _list_tar(path, ignored)
        of = _Samples(stated)
        every = {plain(written) for written in pictures} if stated else set()
        whole, keys = {key for place in every if (key := _stem(place)) == of.key(place)}, list[str | None]()
        for name, written in plainly_named(pictures):
            place = plain(name)
            shown = name if len(paths) == 1 else f"{path.name}/{name}"
            key = of.key(place) if stated else None
            if key in whole and _stem(place) != key:
                ignored.append((shown, "a further picture of a sample"))
                continue
            found.append((shown, place, path, *pictures[written]))
            labels.append(None if key is None else stated[key])
            keys.append(key)
        several += sum(count > 1 for key, count in Counter(keys).items() if key is not None)
    return Listing(
        [row[0] for row in found],
        [row[1] for row in found],
        lambda: [row[4] for row in found],
        lambda i: _read_stored(*found[i][2:]),
        ignored,
        labels if any(label is not None for label in labels) else None,
        [f"{several:,} samples hold several pictures, each of which counts"] if several else [],
    )


class _Samples:
    """Which of the stated labels is a picture's: the one of the longest name that begins the picture's."""

    def __init__(self, stated: dict[str, str]) -> None:
        self._stated, self._first = stated, dict[str, str | None]()
        for stem, label in stated.items():  # `000.label.cls` beside `000.jpg`
            first = _up_to_first_dot(stem)
            known = self._first.setdefault(first, stem)
            if known is not None and stated[known] != label:
                self._first[first] = None  # several: names with dots, not samples

    def key(self, place: str) -> str | None:
        """The name, up to a dot, whose label is the picture's; None if there is none."""
        stem = _stem(place)
        while stem not in self._stated:
            if "." not in stem.rpartition("/")[2]:
                return self._first.get(_up_to_first_dot(place))
            stem = _stem(stem)
        return stem


def _stem(place: str) -> str:
    """A path without what follows its file's last dot."""
    return place.rpartition(".")[0]


def _up_to_first_dot(place: str) -> str:
    folder, _, file = place.rpartition("/")
    return f"{folder}/{file.split('.', 1)[0]}"


def _list_tar(
    path: Path, ignored: list[tuple[str, str]]
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Pictures by name with (offset, bytes), and the labels stated, by plain name up to the last dot."""
    pictures: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    size = path.stat().st_size
    for member in _tar_members(path, ignored):
        place = member.name.removeprefix("./")
        if member.kind != "file":
            reason = "a link, a device or sparse"
        elif member.offset + member.size > size:
            reason = "the tar file ends within it"
        elif (label := _label(path, place, member)) is not None:
            labels[_stem(plain(place))] = label
            continue
        else:
            reason = ignore_reason(place)
            if reason is None and place in pictures:
                reason = "the name appears twice"
            elif reason is None and member.size > LARGEST:
                reason = f"larger than {LARGEST:,} bytes"
        if reason is None:
            pictures[place] = (member.offset, member.size)
        else:
            ignored.append((f"{path.name}/{place}", reason))
    return pictures, labels


def _tar_members(path: Path, ignored: list[tuple[str, str]]) -> Iterator[Member]:
    """The members; where headers are damaged, that is noted in `ignored` and the rest is not read."""
    begun = False
    try:
        for member in read_members(path):
            begun = True
            if member.kind != "folder":
                yield member
    except Damaged as error:
        if not begun:
            raise DigitError(
                f"{path} is no uncompressed tar file ({error}): unpack it or copy it again"
            ) from None
        ignored.append((path.name, f"{error}, not read from there on"))
    except OSError as error:
        raise DigitError(f"{path} cannot be read ({error.strerror}): unpack it or copy it again") from None


def _label(path: Path, place: str, member: Member) -> str | None:
    suffix = PurePosixPath(place).suffix.lower()
    if suffix not in (".cls", ".json") or member.size > _LARGEST_LABEL:
        return None
    try:
        text = _read_at(path, member.offset, member.size).decode("utf-8-sig").strip()
        value: Any = text if suffix == ".cls" else json.loads(text)["label"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return str(value) if isinstance(value, str | int) and str(value) else None


def _read_stored(path: Path, offset: int, size: int) -> bytes:
    try:
        data = _read_at(path, offset, size)
    except OSError as error:
        raise BrokenImage(f"cannot be read from the tar file: {os.strerror(error.errno or 0)}") from error
    if len(data) != size:
        raise BrokenImage("the tar file ends within it")
    return data


def _read_at(path: Path, offset: int, length: int) -> bytes:
    """`length` bytes of a file from `offset`, fewer at its end; threads share no position."""
    with open_regular(path, buffering=0) as file:
        file.seek(offset)
        return file.read(length)

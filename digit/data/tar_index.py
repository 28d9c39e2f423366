"""WebDataset tar shards: headers read once, pictures read at random; nothing is extracted or unpickled."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from digit.data.decode import BrokenImage
from digit.data.listing import Listing, ignore_reason
from digit.data.zip_index import read_span
from digit.errors import DigitError

_FAILURES = (tarfile.TarError, OSError, EOFError, ValueError, LookupError, OverflowError, RuntimeError)
_LARGEST_HEADER = 2**20  # bytes; a longer PAX record or label file is an attack or damage


def list_tars(paths: list[Path]) -> Listing:
    """The pictures of one or more uncompressed tar files, in the order of `paths`, then of names.

    A sample is the members that share a path up to the first dot of the file's name; its label is the text of
    its `.cls` member or "label" in its `.json` member. Links, devices, unsafe paths and everything else are
    listed as ignored. Raises DigitError when a file is no tar, or compressed.
    """
    found: list[tuple[str, str, Path, int, int]] = []  # name, place, shard, offset, bytes
    labels: list[str | None] = []
    ignored: list[tuple[str, str]] = []
    for path in paths:
        pictures, stated = _list_one(path, ignored)
        for place in sorted(pictures):
            name = place if len(paths) == 1 else f"{path.name}/{place}"
            found.append((name, place, path, *pictures[place]))
            labels.append(stated.get(_key(place)))
    if any(label is not None for label in labels):
        rows = zip(found, labels, strict=True)
        ignored += [
            (row[0], "a picture without the label that others have") for row, label in rows if label is None
        ]
    complete = [label for label in labels if label is not None]
    return Listing(
        [row[0] for row in found],
        [row[1] for row in found],
        lambda: [row[4] for row in found],
        lambda i: _read(*found[i][2:]),
        ignored,
        complete if complete and len(complete) == len(labels) else None,
    )


def _list_one(
    path: Path, ignored: list[tuple[str, str]]
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Picture places with (offset, bytes), and the labels stated by key."""
    pictures: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    size = path.stat().st_size
    for member in _members(path, ignored):
        place = member.name.removeprefix("./")
        reason = None
        if not member.isreg() or member.issparse():
            reason = "a link, a device or sparse"
        elif member.offset_data + member.size > size:
            reason = "the tar file ends within it"
        elif (label := _label(path, place, member)) is not None:
            labels[_key(place)] = label
            continue
        else:
            reason = ignore_reason(place)
            if reason is None and place in pictures:
                reason = "the name appears twice"
        if reason is None:
            pictures[place] = (member.offset_data, member.size)
        else:
            ignored.append((f"{path.name}/{place}", reason))
    return pictures, labels


def _members(path: Path, ignored: list[tuple[str, str]]) -> Iterator[tarfile.TarInfo]:
    with path.open("rb") as file:
        try:
            archive = tarfile.TarFile(fileobj=_ShortReads(file))  # type: ignore[arg-type]
        except _FAILURES as error:
            raise DigitError(
                f"{path} is no uncompressed tar file ({error}): unpack it or copy it again"
            ) from error
        while True:
            start = archive.offset
            try:
                member = archive.next()
                if member is None:
                    break
                if member.size < 0:
                    raise tarfile.ReadError("negative size")  # a loop, otherwise
            except _FAILURES as error:
                ignored.append((path.name, f"damaged at byte {start} ({error}), not read from there on"))
                return
            archive.members.clear()  # type: ignore[attr-defined]  # or a million headers stay in memory
            if not member.isdir():
                yield member
        file.seek(start)
        if file.read(512).strip(b"\0"):
            ignored.append((path.name, f"damaged at byte {start}, not read from there on"))


class _ShortReads:
    """A file whose reads are bounded: tarfile reads a PAX record whole, whatever length its header claims."""

    def __init__(self, file: BinaryIO) -> None:
        self.tell, self.seek, self._file = file.tell, file.seek, file

    def read(self, length: int = -1) -> bytes:
        if not 0 <= length <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {length} bytes")
        return self._file.read(length)


def _label(path: Path, place: str, member: tarfile.TarInfo) -> str | None:
    suffix = PurePosixPath(place).suffix.lower()
    if suffix not in (".cls", ".json") or member.size > _LARGEST_HEADER:
        return None
    try:
        text = read_span(path, member.offset_data, member.size).decode().strip()
        value: Any = text if suffix == ".cls" else json.loads(text)["label"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return str(value) if isinstance(value, str | int) and str(value) else None


def _key(place: str) -> str:
    folder, _, file = place.rpartition("/")
    return f"{folder}/{file.split('.', 1)[0]}"


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        data = read_span(path, offset, size)
    except OSError as error:
        raise BrokenImage(f"cannot be read from the tar file: {os.strerror(error.errno or 0)}") from error
    if len(data) != size:
        raise BrokenImage("the tar file ends within it")
    return data

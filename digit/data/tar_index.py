"""WebDataset tar shards: headers read once, pictures read at random; nothing is extracted or unpickled."""

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from digit.data.decode import BrokenImage
from digit.data.listing import LARGEST, Listing, ignore_reason
from digit.data.tar_headers import Damaged, Member, read_members
from digit.data.zip_index import read_span
from digit.errors import DigitError

_LARGEST_LABEL = 2**20  # bytes; a longer label file is an attack or damage


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
        if member.kind != "file":
            reason = "a link, a device or sparse"
        elif member.offset + member.size > size:
            reason = "the tar file ends within it"
        elif (label := _label(path, place, member)) is not None:
            labels[_key(place)] = label
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


def _members(path: Path, ignored: list[tuple[str, str]]) -> Iterator[Member]:
    """The members; where headers are damaged, that is noted in `ignored` and the rest is not read."""
    members = read_members(path)
    first = True
    while True:
        try:
            member = next(members, None)
        except Damaged as error:
            if first:
                raise DigitError(
                    f"{path} is no uncompressed tar file ({error}): unpack it or copy it again"
                ) from None
            ignored.append((path.name, f"{error}, not read from there on"))
            return
        if member is None:
            return
        first = False
        if member.kind != "folder":
            yield member


def _label(path: Path, place: str, member: Member) -> str | None:
    suffix = PurePosixPath(place).suffix.lower()
    if suffix not in (".cls", ".json") or member.size > _LARGEST_LABEL:
        return None
    try:
        text = read_span(path, member.offset, member.size).decode().strip()
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

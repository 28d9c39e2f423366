"""Pictures by number, from a folder, a zip or tar shards: names, labels and bytes, in a fixed order."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from digit.data.archives import LARGEST, SUFFIXES, Listing, ignore_reason, list_tars, list_zip
from digit.data.decode import BrokenImage
from digit.errors import DigitError

_SPLITS = frozenset(("train", "val", "valid", "validation", "test"))


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Random access to pictures; threads may read at once. Made by `open_images`."""

    path: Path
    kind: str  # "folder", "zip", "tar shards" or "file", for messages
    names: list[str]  # unique, sorted, with "/" between folders
    labels: Int[np.ndarray, " n"] | None  # int64, a place in `classes`
    classes: list[str]  # [] without labels
    ignored: list[tuple[str, str]]  # (member, reason) that are no pictures
    sizes: Callable[[], list[int]] = field(repr=False)  # bytes of each
    read: Callable[[int], bytes] = field(repr=False)  # the file of picture i; raises BrokenImage

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over names, sizes in bytes and labels: equal for a folder and a zip of it."""
        digest = hashlib.sha256()
        for name, size in zip(self.names, self.sizes(), strict=True):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0%d\n" % size)
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
            digest.update("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def select(self, indices: Int[np.ndarray, " m"] | Sequence[int]) -> "ImageSource":
        """The pictures at `indices`, in that order, with the same classes."""
        chosen = np.asarray(indices, dtype=np.int64)

        def sizes() -> list[int]:
            every = self.sizes()
            return [every[i] for i in chosen]

        return replace(
            self,
            names=[self.names[i] for i in chosen],
            labels=None if self.labels is None else self.labels[chosen],
            sizes=sizes,
            read=lambda i: self.read(int(chosen[i])),
        )

    def spread(self, num: int | None) -> "ImageSource":
        """`num` pictures at most, evenly spread over the set: sets on disk are often sorted by class.

        Raises:
            DigitError: fewer than one.
        """
        if num is not None and num < 1:
            raise DigitError(f"--num {num}: take at least one picture")
        if num is None or num >= len(self):
            return self
        return self.select(np.linspace(0, len(self) - 1, num).astype(np.int64))

    def counts(self) -> dict[str, str | int]:
        """What was found, for the record of a command."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "pictures": len(self),
            "classes": len(self.classes),
            "ignored": len(self.ignored),
        }


def open_images(
    path: str | Path, *, under: str | None = None, classes: Sequence[str] | None = None
) -> ImageSource:
    """One picture, or those of a folder (flat or of class folders), zip, .tar or `x-{000..127}.tar`.

    The label of a picture is the folder it lies in, or what a shard states beside it. A split is chosen by
    `under="train"` or by the path's end, `pictures.zip:train`. Given `classes`, labels are places in that
    list, so that the splits of a set, or the pictures for an existing model, agree. Raises DigitError when
    there is nothing to read or a class is not listed.
    """
    path = Path(path)
    if not path.exists() and ":" in path.name and under is None:
        before, _, under = str(path).rpartition(":")
        path = Path(before)
    listing, kind = _list(path)
    chosen = range(len(listing.names))
    if under is not None:
        prefix = under.strip("/") + "/"
        # At the top, or below the one folder that many archives wrap around everything.
        chosen = [
            i for i, place in enumerate(listing.places)
            if place.startswith(prefix) or place.partition("/")[2].startswith(prefix)
        ]  # fmt: skip
    if not chosen:
        where = f"folder {under!r} of {path}" if under is not None else str(path)
        hint = f" ({listing.ignored[0][0]} is {listing.ignored[0][1]})" if listing.ignored else ""
        raise DigitError(f"no picture found in {where}{hint}: give a folder, zip or tar of pictures")
    if listing.label_names is not None:
        label_names = [listing.label_names[i] for i in chosen]
    else:
        label_names = _folder_names([listing.places[i] for i in chosen])
    labels = None
    if label_names is not None:
        if classes is None:
            classes = _classes(label_names, stated=listing.label_names is not None)
        number = {name: i for i, name in enumerate(classes)}
        unknown = next((name for name in label_names if name not in number), None)
        if unknown is not None:
            raise DigitError(
                f"class {unknown!r} of {path} is not among the {len(classes)} known ones: rename or remove it"
            )
        labels = np.array([number[name] for name in label_names], dtype=np.int64)
    elif classes is not None:
        raise DigitError(f"the pictures of {path} have no labels: put them into class folders")
    source = ImageSource(
        path, kind, listing.names, None, list(classes or []), listing.ignored, listing.sizes, listing.read
    )
    return replace(source if under is None else source.select(chosen), labels=labels)


def _list(path: Path) -> tuple[Listing, str]:
    """What there is, and its kind for messages."""
    shards = [Path(name) for name in _expand(str(path))]
    if shards != [path]:
        missing = next((shard for shard in shards if not shard.is_file()), None)
        if missing is not None:
            raise DigitError(f"shard {missing} does not exist: correct the range in {path}")
        return list_tars(shards), "tar shards"
    if path.is_dir():
        shards = sorted(path.glob("*.tar"))
        listing = _list_folder(path)
        return (list_tars(shards), "tar shards") if shards and not listing.names else (listing, "folder")
    if not path.is_file():
        raise DigitError(f"{path} does not exist: give a folder, a zip or tar shards of pictures")
    if path.suffix.lower() == ".zip":
        return list_zip(path), "zip"
    if ".tar" in path.suffixes or path.suffix == ".tgz":
        return list_tars([path]), "tar shards"
    if path.suffix.lower() in SUFFIXES:
        return _files(path.parent, [path.name], []), "file"
    raise DigitError(f"{path} is no folder, zip or tar of pictures, nor a picture: give one of these")


def _expand(pattern: str) -> list[str]:
    """The names that a pattern with {000..127} stands for; itself without one."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    tails = _expand(pattern[match.end() :])
    return [f"{pattern[: match.start()]}{number}{tail}" for number in numbers for tail in tails]


def _list_folder(root: Path) -> Listing:
    names: list[str] = []
    ignored: list[tuple[str, str]] = []
    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back up
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        prefix = Path(folder).relative_to(root).as_posix()
        for file in files:
            name = file if prefix == "." else f"{prefix}/{file}"
            if (reason := ignore_reason(name)) is None:
                names.append(name)
            else:
                ignored.append((name, reason))
    return _files(root, sorted(names), sorted(ignored))


def _files(root: Path, names: list[str], ignored: list[tuple[str, str]]) -> Listing:
    """Files by their names below `root`, which are read when asked for."""

    def read(i: int) -> bytes:
        try:
            with (root / names[i]).open("rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise BrokenImage(f"cannot be read: {os.strerror(error.errno or 0)}") from error
        if len(data) > LARGEST:
            raise BrokenImage(f"it is larger than {LARGEST:,} bytes")
        return data

    def size(name: str) -> int:
        try:
            return (root / name).stat().st_size
        except OSError:
            return -1  # a broken link, say: reported when it is read

    return Listing(names, names, lambda: [size(name) for name in names], read, ignored)


def _folder_names(places: list[str]) -> list[str] | None:
    """The class folder of each place, or None where the folders say nothing about classes."""
    folders = [place.split("/")[:-1] for place in places]
    while all(folders) and len({parts[-1] for parts in folders}) == 1:
        folders = [parts[:-1] for parts in folders]  # one name for all, such as train/cat/images
    if not all(folders) or {parts[-1] for parts in folders} <= _SPLITS:
        return None
    return [parts[-1] for parts in folders]


def _classes(names: list[str], *, stated: bool) -> list[str]:
    """Class names in label order; stated integers keep their values, also where some are absent."""
    known = sorted(set(names))
    if stated and all(re.fullmatch(r"0|[1-9]\d{0,5}", name) for name in known):
        return [str(i) for i in range(max(map(int, known)) + 1)]
    return known

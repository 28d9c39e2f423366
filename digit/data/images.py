"""Pictures by number, from a folder, a zip or tar shards: names, labels and bytes, in a fixed order."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from digit.calls import checked
from digit.data.archives import LARGEST, SUFFIXES, Listing, ignore_reason, list_tars, list_zip
from digit.data.classes import counted, find_classes, grouped, in_order, plain, plainly_named, relabel
from digit.data.decode import BrokenImage
from digit.data.label_table import with_labels
from digit.data.samples import no_samples
from digit.errors import DigitError
from digit.opening import leads_out, read_file, what_it_is

LEADS_OUT = "a link that leads out of the folder"
UNREADABLE = "cannot be read"  # how the reason begins why a folder in a set was left out


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Random access to pictures; threads may read at once. Made by `open_images`."""

    path: Path
    kind: str  # "folder", "zip", "tar shards" or "file", for messages
    names: list[str]  # unique, sorted, with "/" between folders and composed accents
    labels: Int[np.ndarray, " n"] | None  # int64, a place in `classes`
    classes: list[str]  # [] without labels
    ignored: list[tuple[str, str]]  # (member, reason): no pictures, or left out
    sizes: Callable[[], list[int]] = field(repr=False)  # bytes of each
    read: Callable[[int], bytes] = field(repr=False)  # the file of picture i; raises BrokenImage
    notes: list[str] = field(default_factory=list)  # what was taken for a split or class, why there are none

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

    @property
    def read_as(self) -> str:
        """One line: how many pictures, of which classes or why of none, and what was left out and why."""
        return f"{self.path}: {self.summary}"

    @property
    def summary(self) -> str:
        """The same without the path, for files that must not depend on where the pictures lie."""
        line = f"{len(self):,} picture{'s' * (len(self) != 1)}"
        if self.labels is None:
            line += f", no classes ({', '.join(self.notes) or 'it is one picture'})"
        else:
            there, known = len(np.unique(self.labels)), len(self.classes)
            line += f" of {there:,} class{'es' * (there != 1)} ({counted(self.classes, self.labels)})"
            line += f" out of {known:,}" * (there < known)
            line += "".join(f"; {note}" for note in self.notes)
        return line + (f"; left out: {grouped(self.ignored)}" if self.ignored else "")

    def counts(self) -> dict[str, Any]:
        """What was found, for the record of a command."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "pictures": len(self),
            "classes": len(self.classes),
            "ignored": len(self.ignored),
            "read_as": self.read_as,
        }


@checked
def open_images(
    path: str | Path,
    *,
    under: str | None = None,
    classes: Sequence[str] | None = None,
    strict: bool = False,
) -> ImageSource:
    """One picture, or those of a folder (flat or of class folders), zip, .tar or `x-{000..127}.tar`.

    The class of a picture is the path of folders it lies in, or what a shard or a table in the folder states
    (`find_classes` and `digit.data.label_table` say what is none). Of what digit itself wrote only samples
    count, no grids, strips or plots. A split is chosen by `under="train"` or by the path's end,
    `pictures.zip:train`. Given `classes`, labels are places in that list, so that the splits of a set, or the
    pictures for an existing model, agree. Raises DigitError when there is nothing to read, a class is not
    listed, or, if `strict`, a picture has no class and others have.
    """
    path = Path(path)
    if not path.exists() and ":" in path.name and under is None:
        before, _, under = str(path).rpartition(":")
        path = Path(before)
    listing, kind = _list(path)
    if kind == "folder":
        listing = with_labels(path, listing)
    sheets = no_samples(
        listing.names, [name for name, _ in listing.ignored], path if kind == "folder" else None
    )
    chosen, prefix = [i for i in range(len(listing.names)) if i not in sheets], ""
    if under is not None:
        prefix = plain(under).strip("/") + "/"
        # At the top, or below the one folder that many archives wrap around everything.
        chosen = [
            i for i in chosen
            if (place := listing.places[i]).startswith(prefix)
            or place.partition("/")[2].startswith(prefix)
        ]  # fmt: skip
    places = [f"/{listing.places[i]}".partition(f"/{prefix}")[2] for i in chosen]
    left_out = listing.ignored + [(listing.names[i], reason) for i, reason in sheets.items()]
    ignored = [each for each in left_out if not prefix or f"/{prefix}" in f"/{each[0]}"]
    if not chosen:
        where = f"folder {under!r} of {path}" if under is not None else str(path)
        hint = f" ({grouped(left_out)})" if left_out else ""
        raise DigitError(f"no picture found in {where}{hint}: give a folder, zip or tar of pictures")
    stated = listing.label_names and [listing.label_names[i] for i in chosen]
    how: dict[str, Any] = {"known": classes or (), "split": prefix.split("/")[-2] if prefix else None}
    found = find_classes(places, stated, **how)
    found.notes += [f"below {prefix[:-1]}"] * bool(prefix) + listing.notes
    gone = found.masks | found.left_out
    ignored += [(listing.names[chosen[i]], gone[i]) for i in sorted(gone)]
    _refuse_missing(path, ignored, strict=strict)
    if strict and found.left_out:
        first = min(found.left_out)
        name, reason = listing.names[chosen[first]], found.left_out[first]
        raise DigitError(f"{name} in {path} has no class, which others have ({reason}): move or remove it")
    kept = [i for i in range(len(chosen)) if i not in gone]
    labels = None
    if found.names is not None:
        names = [name for i in kept if (name := found.names[i]) is not None]
        own = in_order(names, stated=stated is not None)
        number = {name: i for i, name in enumerate(own)}
        labels = np.array([number[name] for name in names], dtype=np.int64)
        if classes is not None:
            labels = relabel(labels, own, classes, of=str(path), known_to="the classes to be read")
        classes = own if classes is None else classes
    elif classes is not None:
        why = ", ".join(found.notes)
        raise DigitError(f"the pictures of {path} have no labels ({why}): put them into class folders")
    rest = listing.sizes, listing.read, found.notes
    source = ImageSource(path, kind, listing.names, None, list(classes or []), ignored, *rest)
    rows = [chosen[i] for i in kept]
    return replace(source if len(rows) == len(listing.names) else source.select(rows), labels=labels)


def _refuse_missing(path: Path, ignored: Sequence[tuple[str, str]], *, strict: bool) -> None:
    """DigitError, if `strict`, for what may be part of the set and is not read."""
    for name, reason in ignored:
        if strict and reason.startswith((LEADS_OUT, UNREADABLE)):
            raise DigitError(f"{name} in {path} is not read ({reason}): copy it there or remove it")


def _list(path: Path) -> tuple[Listing, str]:
    """What there is, and its kind for messages."""
    shards = [Path(name) for name in _expand(str(path))]
    if shards != [path]:
        missing = next((shard for shard in shards if not shard.is_file()), None)
        if missing is not None:
            raise DigitError(f"shard {missing} does not exist: correct the range in {path}")
        return list_tars(shards), "tar shards"
    if path.is_dir():
        listing = _list_folder(path)
        shards = [] if listing.names else sorted(path.glob("*.tar"))
        away = [shard for shard in shards if leads_out(shard, path)]
        if not shards or away == shards:
            listing.ignored.extend((shard.name, LEADS_OUT) for shard in away)
            return listing, "folder"
        tars = list_tars([shard for shard in shards if shard not in away])
        tars.ignored.extend((shard.name, LEADS_OUT) for shard in away)
        return tars, "tar shards"
    if not path.exists():
        raise DigitError(f"{path} does not exist: give a folder, a zip or tar shards of pictures")
    if not path.is_file():
        raise DigitError(
            f"{path} is {what_it_is(path.stat().st_mode)}: give a folder, a zip or tar shards of pictures"
        )
    if path.suffix.lower() == ".zip":
        return list_zip(path), "zip"
    if ".tar" in path.suffixes or path.suffix == ".tgz":
        return list_tars([path]), "tar shards"
    if path.suffix.lower() in SUFFIXES:
        return _files(path.parent, [path.name], [], {path.name: os.path.realpath(path)}), "file"
    reason = ignore_reason(path.name)
    raise DigitError(
        f"{path} is no folder, zip or tar of pictures, nor a picture ({reason}): give one of these"
    )


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
    """The pictures below a folder; links that stay in it are followed, others are named in `ignored`."""
    names: list[str] = []
    linked: dict[str, str] = {}
    ignored: list[tuple[str, str]] = []
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            status = (root / prefix).stat()
            if (status.st_dev, status.st_ino) in seen:  # a link back up
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / prefix) as there:
                entries = sorted(there, key=lambda entry: entry.name)
        except OSError as error:
            ignored.append((prefix or "./", f"{UNREADABLE}: {error.strerror}"))
            continue
        if not entries:
            ignored.append((prefix or "./", "an empty folder"))
        below = []
        for entry in entries:
            name, folder = f"{prefix}{entry.name}", _is_folder(entry)
            reason = ("hidden" if entry.name.startswith(".") else None) if folder else ignore_reason(name)
            if reason is None and entry.is_symlink():
                linked[name] = os.path.realpath(entry.path)
                reason = LEADS_OUT if leads_out(linked[name], root) else None
            if reason is None and folder:
                below.append(f"{name}/")
            elif reason is None:
                names.append(name)
            elif reason != "hidden" or not folder:
                ignored.append((name, reason))
        waiting += reversed(below)
    return _files(root, names, sorted(ignored), linked)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, say
        return False


def _files(
    root: Path, names: list[str], ignored: list[tuple[str, str]], linked: Mapping[str, str]
) -> Listing:
    """Files by their names below `root`, read when asked for; of links `linked` says where they lead."""
    named = plainly_named(names)

    def read(i: int) -> bytes:
        name = named[i][1]
        try:
            return read_file(linked.get(name, root / name), links=False, most=LARGEST)
        except OSError as error:
            raise BrokenImage(f"cannot be read: {error.strerror}") from error

    def size(name: str) -> int:
        try:
            return (root / name).stat().st_size
        except OSError:
            return -1  # a broken link, say: reported when it is read

    names = [name for name, _ in named]
    places = [plain(name) for name in names]
    return Listing(names, places, lambda: [size(written) for _, written in named], read, ignored)

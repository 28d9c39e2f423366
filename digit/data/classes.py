"""Where pictures lie -> the class of each: which folders are classes, splits or masks, and what has no class.

Whatever is decided is said: a picture that is left out has a reason, and a set without classes has one too.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from digit.errors import DigitError
from digit.printing import NAME, listed, readable

# Folders as people name them, whatever their capitals; whether one means a split or a class, places decide.
_SPLIT = re.compile(
    r"(train(ing)?|val(id(ation)?)?|test(ing)?|dev|eval(uation)?|held[_-]?out)([_ -]?(set|split|data|\d+))?",
    re.IGNORECASE,
)
_MASKS = re.compile(r"masks|segmentations?(class|object|_?masks?)?|annotations?|trimaps", re.IGNORECASE)
_MASKS_BESIDE_IMAGES = re.compile(r"mask|labels?|depths?|gt|ground_?truth", re.IGNORECASE)
_IMAGES = re.compile(r"(jpe?g)?(images?|imgs?|photos?|pictures?|pics|rgb)|jpe?g|png", re.IGNORECASE)
_MASK_FILE = re.compile(
    r"[._ ([-]+(masks?|segm?|segmentation|trimap|depth|matte|gt)[)\]]?([._ -]?\d+)?$", re.IGNORECASE
)
_IMAGE_FILE = re.compile(r"[._ ([-]+(image|img|rgb|photo)[)\]]?$", re.IGNORECASE)
_NUMBER, _NEGATIVE = re.compile(r"0|[1-9]\d{0,5}"), re.compile(r"-\d+")

Paths = dict[str, list[str]]  # by folder: those of its folders that may say a class


@dataclass
class Found:
    """The class of each picture, and why others have none."""

    names: list[str | None] | None = None  # None in it: left out; None: the set has no classes
    masks: dict[int, str] = field(default_factory=dict)  # what is no picture, by number, with the reason
    left_out: dict[int, str] = field(default_factory=dict)  # pictures without a class, likewise
    notes: list[str] = field(default_factory=list)  # what was taken how


def plain(name: str) -> str:
    r"""A path or class name as every system writes it: "/" for "\", composed accents, no "./" or "//"."""
    if "\\" in name or "//" in name or name.startswith("./") or "/./" in name or name.endswith("/"):
        name = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def plainly_named(names: Iterable[str]) -> list[tuple[str, str]]:
    """(plain name, name) of members, sorted and unique; where two are one in plain, the odd one stays."""
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (plain(name) != name, name)):
        chosen[name if plain(name) in chosen else plain(name)] = name
    return sorted(chosen.items())


def find_classes(
    places: Sequence[str],
    stated: Sequence[str | None] | None = None,
    *,
    known: Sequence[str] = (),
    split: str | None = None,
) -> Found:
    """The class of each place: what is `stated` beside the pictures, or else the whole path of its folders.

    Folders that all share, splits, and folders called images below classes are no part of a class's name, and
    masks are no pictures. Where most pictures have a class, the others are left out; else none has one. A
    folder called as a class in `known` is one, also where all pictures share it.
    """
    above: dict[str, str] = {}  # one string for all pictures of a folder
    folders = [above.setdefault(folder, folder) for folder in (place.rpartition("/")[0] for place in places)]
    found = Found(masks=_masks(places, folders))
    rest = [i for i in range(len(places)) if i not in found.masks]
    missing, reasons, names = "beside the class folders", {}, {}
    if stated is not None and any(stated[i] is not None for i in rest):
        missing = "a picture without the label that others have"
        names = {i: plain(name) for i in rest if (name := stated[i]) is not None}
        for i in [i for i, name in names.items() if _NEGATIVE.fullmatch(name)]:
            reasons[i] = f"its label {names.pop(i)} is no class"
    else:
        classes, without = _of_folders(
            Counter(folders[i] for i in rest), found.notes, frozenset(known), split
        )
        names = {i: classes[folders[i]] for i in rest if folders[i] in classes}
        reasons = {i: without[folders[i]] for i in rest if folders[i] in without}
    if not names:
        found.notes = ["they lie in one folder" if any(above) else "they lie in no folders"]
    elif 2 * len(names) < len(rest):
        found.notes = [f"only {len(names):,} of {len(rest):,} have one"]
    else:
        found.names = [names.get(i) for i in range(len(places))]
        found.left_out = {i: reasons.get(i, missing) for i in rest if i not in names}
        alike: dict[str, str] = {}  # what another system might take for one
        for name in sorted(set(names.values())):
            first = alike.setdefault(unicodedata.normalize("NFKC", name).casefold().rstrip(" ."), name)
            if first != name:
                found.notes.append(f"{first!r} and {name!r} are two classes")
    return found


def in_order(names: Iterable[str], *, stated: bool) -> list[str]:
    """Class names in the order of labels; stated integers are the labels, also where some are absent."""
    known = sorted(set(names))
    if stated and all(map(_NUMBER.fullmatch, known)):
        return [str(i) for i in range(max(map(int, known)) + 1)]
    if stated:  # numbers among names: by value
        known.sort(key=lambda name: (0, int(name), name) if _NUMBER.fullmatch(name) else (1, 0, name))
    return known


def relabel(
    labels: Int[np.ndarray, " n"], theirs: Sequence[str], ours: Sequence[str], *, of: str, known_to: str
) -> Int[np.ndarray, " n"]:
    """Labels that are places in `theirs` as places in `ours`: a class is its name, whatever its number.

    Classes without a picture do not count. Raises DigitError, naming the difference, where one of `of` is
    unknown to `known_to`.
    """
    place = {plain(name): i for i, name in enumerate(ours)}
    new = np.array([place.get(plain(name), -1) for name in theirs], dtype=np.int64)
    unknown = [str(theirs[int(i)]) for i in np.unique(labels) if new[i] < 0]
    if unknown:
        many = f"classes {different(unknown)} are" if len(unknown) > 1 else f"class {unknown[0]!r} is"
        raise DigitError(
            f"{of}: {many} not among the {len(ours):,} of {known_to} ({different(ours)}): leave such "
            "pictures out, or rename their folders"
        )
    return new[labels]


def different(names: Sequence[str], most: int = 5) -> str:
    """The first of some names of classes, for a sentence."""
    return listed([repr(readable(name, NAME)) for name in names], most)


def _of_folders(
    pictures: Counter[str], notes: list[str], known: frozenset[str], split: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The class of each folder that has one, {} where fewer than two are there; reasons why others have none.

    `pictures` are their numbers by folder.
    """
    paths: Paths = {folder: folder.split("/") if folder else [] for folder in pictures}
    paths, without = _within(paths, known), dict[str, str]()
    if split is None or not _SPLIT.fullmatch(split):
        paths, without = _without_splits(paths, pictures, notes)
        paths = _within(paths, known)
    while deep := [parts for parts in paths.values() if parts]:
        ends = {parts[-1] for parts in deep}
        images = len(ends) == 1 and _IMAGES.fullmatch(next(iter(ends)))
        if not (images or all(map(_SPLIT.fullmatch, ends))) or min(map(len, deep)) < 2:
            break
        paths = {folder: parts[:-1] for folder, parts in paths.items()}
    return {folder: "/".join(parts) for folder, parts in paths.items() if parts}, without


def _within(paths: Paths, known: frozenset[str]) -> Paths:
    """The folders below those that all share."""
    while (tops := {parts[0] for parts in paths.values() if parts}) and len(tops) == 1 and not tops & known:
        paths = {folder: parts[1:] for folder, parts in paths.items()}
    return paths


def _without_splits(paths: Paths, pictures: Counter[str], notes: list[str]) -> tuple[Paths, dict[str, str]]:
    """The folders without those of splits, and reasons why others are no classes beside these."""
    top = {folder: parts[0] for folder, parts in paths.items() if parts}
    inside = {folder for folder, name in top.items() if _SPLIT.fullmatch(name)}
    splits, beside = {top[folder] for folder in inside}, {top[folder] for folder in top.keys() - inside}
    below = {paths[folder][1] for folder in inside if len(paths[folder]) > 1}
    without: dict[str, str] = {}
    if beside and splits and not below & beside:
        if {name.lower() for name in splits} == {"train"} and (len(beside) > 1 or not below):
            notes.append(f"the folder {min(splits)} is taken for a class")
            return paths, without
        others = top.keys() - inside
        if below and sum(pictures[folder] for folder in inside) >= sum(pictures[f] for f in others):
            without = dict.fromkeys(others, "beside the folders of splits")
        else:
            without = dict.fromkeys(inside, "in the folder of a split beside the classes")
    taken = sorted({top[folder] for folder in inside - without.keys()})
    if taken:
        notes.append(f"split{'s' * (len(taken) > 1)} {', '.join(taken)} taken together")
    return {
        folder: parts[1:] if folder in inside else parts
        for folder, parts in paths.items()
        if folder not in without
    }, without


def _masks(places: Sequence[str], folders: Sequence[str]) -> dict[int, str]:
    """The places that hold masks of the others, each with the reason."""
    split = {folder: folder.split("/") for folder in set(folders)}
    images = {
        (*parts[:depth],)
        for parts in split.values()
        for depth, part in enumerate(parts)
        if _IMAGES.fullmatch(part)
    }
    masks = {
        folder
        for folder, parts in split.items()
        for depth, part in enumerate(parts)
        if _MASKS.fullmatch(part) or (_MASKS_BESIDE_IMAGES.fullmatch(part) and (*parts[:depth],) in images)
    }
    found = {i: "in a folder of masks" for i, folder in enumerate(folders) if folder in masks}
    named = {i: base for i, place in enumerate(places) if (base := _without(_MASK_FILE, place))}
    if named:
        of = dict.fromkeys(named.values(), "")
        for place in places:
            base = _without(_IMAGE_FILE, place) or place.rpartition(".")[0]
            if base in of:
                of[base] = place.rpartition("/")[2]
        found |= {i: f"a mask of {of[base]}" for i, base in named.items() if of[base]}
    return found if len(found) < len(places) else {}


def _without(ending: re.Pattern[str], place: str) -> str | None:
    """A place without its suffix and an ending before that; None if it has no such ending."""
    stem = place.rpartition(".")[0]
    first = max(stem.rfind("/") + 2, len(stem) - 24)  # of a million places only the ends are searched
    match = ending.search(stem, first)
    return stem[: match.start()] if match else None


def counted(classes: Sequence[str], labels: Int[np.ndarray, " n"], most: int = 12) -> str:
    """Classes with their numbers of pictures: "cat 6, dog 5"; of many the first ones and the range."""
    numbers = np.bincount(labels, minlength=len(classes))
    there = [(name, int(number)) for name, number in zip(classes, numbers, strict=True) if number]
    shown = ", ".join(f"{name} {number:,}" for name, number in (there if len(there) <= most else there[:3]))
    if len(there) <= most:
        return shown
    return f"{shown}, ...: {numbers[numbers > 0].min():,} to {numbers.max():,} each"


def grouped(reasons: Iterable[tuple[str, str]], most: int = 4) -> str:
    """Left-out members by reason, each with its first: "a.txt and 2 others (not named like a picture)"."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons:
        by_reason.setdefault(re.sub(r"^a mask of .*", "masks of other pictures", reason), []).append(name)
    parts = []
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        others = len(names) - 1
        parts.append(f"{names[0]}{f' and {others:,} other' * (others > 0)}{'s' * (others > 1)} ({reason})")
    return ", ".join(
        parts[:most] + ([f"and more for {len(parts) - most} other reasons"] * (len(parts) > most))
    )

"""A table of file names and classes beside the pictures of a folder -> the class of each, or why of none.

CSV, JSON or JSON lines, as people and the hub's image folders have it: files and classes.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from digit.data.archives import Listing
from digit.data.classes import plain
from digit.entries import parsed
from digit.errors import DigitError, first_line
from digit.opening import read_file
from digit.printing import listed

TABLES = (
    *("labels.csv", "labels.json", "labels.jsonl"),
    *("metadata.csv", "metadata.jsonl", "dataset.json"),
)
FILE = ("file_name", "filename", "file", "image", "path", "name")
CLASS = ("label", "class", "category", "class_name", "labels")
MOST = 1 << 28  # bytes of a table
LONGEST = 4096  # characters of a class's name


def with_labels(root: Path, listing: Listing) -> Listing:
    """The listing of a folder with the classes that tables in it state, which name files from where they lie.

    Of several in one folder the first that states some counts. What was taken, and what of it fits no
    picture, stands in the notes.

    Raises:
        DigitError: a table with a column for files and one for classes is damaged, or says two things of one
            file.
    """
    tables = [name for name, _ in listing.ignored if name.rpartition("/")[2] in TABLES]
    if not tables:
        return listing
    notes: list[str] = []
    labels: dict[str, str] = {}
    taken: dict[str, str] = {}  # by folder
    places = set(listing.places)
    for name in sorted(tables, key=lambda name: TABLES.index(name.rpartition("/")[2])):
        folder = name[: name.rfind("/") + 1]
        try:
            rows = None if folder in taken else _rows(root / name)
        except OSError as error:
            notes.append(f"{name} is not read ({error.strerror})")
            continue
        if rows is None:
            why = f"{taken[folder]} is" if folder in taken else "no columns file_name and label"
            notes.append(f"{name} is not read ({why})")
            continue
        stated = {plain(f"{folder}{file}"): label for file, label in _by_file(root / name, rows).items()}
        lost = [file for file in stated if file not in places]
        if len(lost) == len(stated):
            notes.append(f"{name} states a class of none of these")
            continue
        labels |= stated
        taken[folder] = name
        notes.append(f"classes of {name}")
        if lost:
            notes.append(f"{len(lost):,} files in it are not there, such as {listed(lost, 1)}")
    ignored = [each for each in listing.ignored if each[0] not in taken.values()]
    found = [labels.get(place) for place in listing.places] if labels else listing.label_names
    return replace(listing, label_names=found, ignored=ignored, notes=[*listing.notes, *notes])


def _rows(path: Path) -> list[tuple[Any, Any]] | None:
    """(file, class) of each row, as they stand there; None where columns for these are not there."""
    data = read_file(path, links=False, most=MOST)
    try:
        if path.suffix == ".csv":
            return _columns(_csv(data.decode("utf-8-sig")))
        if path.suffix == ".jsonl":
            return _columns(parsed(line) for line in data.splitlines() if line.strip())
        value = parsed(data)
        if isinstance(value, dict) and isinstance(value.get("labels"), list | dict):
            value = value["labels"]
        if isinstance(value, dict):
            return list(value.items())
        if isinstance(value, list) and all(isinstance(row, list) and len(row) == 2 for row in value):
            return [(row[0], row[1]) for row in value]
        return _columns(value) if isinstance(value, list) else None
    except (ValueError, csv.Error) as error:
        raise DigitError(f"{path} is damaged ({first_line(error)}): mend it, or move it away") from None


def _csv(text: str) -> Iterator[dict[Any, Any]]:
    head = text.partition("\n")[0]
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)


def _columns(rows: Iterable[Any]) -> list[tuple[Any, Any]] | None:
    """By the columns' names, which the first row decides."""
    found: list[tuple[Any, Any]] = []
    file = label = None
    for row in rows:
        if not isinstance(row, dict):
            return None
        if file is None:
            named = {str(name).strip().lower(): name for name in row}
            file = next((named[name] for name in FILE if name in named), None)
            label = next((named[name] for name in CLASS if name in named), None)
            if file is None or label is None:
                return None
        found.append((row.get(file), row.get(label)))
    return found or None


def _by_file(path: Path, rows: Sequence[tuple[Any, Any]]) -> dict[str, str]:
    """The class of each file; empty cells state none."""
    labels: dict[str, str] = {}
    for number, (file, label) in enumerate(rows, 1):
        if label is None or label == "" or file is None or file == "":
            continue
        whole = isinstance(label, int) and not isinstance(label, bool)
        if not isinstance(file, str) or not (isinstance(label, str) or whole) or len(str(label)) > LONGEST:
            raise DigitError(
                f"{path}: row {number} names no file and class (a text, or a whole number): mend it"
            )
        name, stated = plain(file.strip()), plain(str(label).strip())
        if labels.setdefault(name, stated) != stated:
            raise DigitError(
                f"{path} says two classes of {name} ({labels[name]} and {stated}): leave one of them"
            )
    return labels

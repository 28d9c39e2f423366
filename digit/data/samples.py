"""What `digit` wrote beside pictures: grids, strips and plots are no pictures of a set, samples are."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digit.entries import parsed
from digit.opening import read_file

# By these files a folder is known: the list of `digit sample`, and the mark of every command.
BESIDE = ("samples.json", ".digit.json")
_SHEETS = re.compile(r"(grid|strip-\d{6,}|codebook|loss)\.png|drawing\.gif")
REASON = "a sheet or plot of digit's, no sample"


def listed_samples(folder: Path) -> list[dict[str, Any]] | None:
    """The rows of a folder's samples.json, each with its `file`; None where `digit sample` wrote none."""
    try:
        return rows_in(parsed(read_file(folder / "samples.json", links=False)))
    except (OSError, ValueError):
        return None


def rows_in(content: Any) -> list[dict[str, Any]] | None:
    """The rows of what a samples.json holds; None where `digit sample` did not write it."""
    rows = content.get("samples") if isinstance(content, dict) else None
    ours = isinstance(rows, list) and all(
        isinstance(row, dict)
        and isinstance(row.get("file"), str)
        and isinstance(row.get("seed"), int | None)
        and isinstance(row.get("label"), int | None)
        and isinstance(row.get("class"), str | None)
        for row in rows
    )
    return rows if ours else None


def no_samples(names: Sequence[str], others: Sequence[str], root: Path | None) -> dict[int, str]:
    """Which of the pictures called `names` are none of the set, by number, with the reason.

    `others` are the files beside them. In a folder on this disk, `root`, only those count that its
    samples.json lists; in an archive, which is not read for it, all but sheets and plots.
    """
    beside = {other.rpartition("/")[0] for other in others if other.rpartition("/")[2] in BESIDE}
    beside |= {folder.partition("/")[2] for folder in beside} if root is None else set()  # without the tar's
    if not beside:
        return {}
    rows = {folder: root and listed_samples(root / folder) for folder in beside}
    drawn = {folder: {row["file"] for row in found} for folder, found in rows.items() if found}
    gone = {}
    for i, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        if folder in beside and _SHEETS.fullmatch(file):
            gone[i] = REASON
        elif file not in drawn.get(folder, (file,)):
            gone[i] = "not in the samples.json beside it"
    return gone

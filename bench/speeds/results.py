"""The measured JSON of one folder: what was run, and where to find a row."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PRIOR = "prior, top-k 200"
# Of several files, parts of a later one take the place of the same parts of an earlier one.
FILES = {
    "sampler": ["sampler-h200.json", "sampler-again-h200.json"],
    "tokenizer": ["tokenizer-h200.json"],
    "jpeg": ["tokenizer-jpeg-h200.json"],
    "kmeans": ["kmeans-h200.json"],
    "train": ["train-h200.json"],
    "train_h100": ["train-h100.json"],
    "vqgan": ["vqgan-h200.json"],
    "fid": ["fid-h200-50000.json"],
    "sample": ["sample.json"],
    "length": ["length-cpu.json"],
    "redesign": ["before-after-h200.json"],
    "drawing": ["before-after-drawing-h200.json"],
    "seeds": ["before-after-seeds-h200.json"],
}


def joined(results: list[Row]) -> Row:
    """One result of several runs on one kind of device: the first, with what later ones measured again.

    A rival beside a path that was measured again without it goes: the two are of different runs.
    """
    first = dict(results[0])
    for later in results[1:]:
        if later["device"] != first["device"]:
            raise ValueError(f"a run on {later['device']} cannot be joined to one on {first['device']}")
        again = {_key(row) for row in later.get("rows", [])}
        kept = [row for row in first.get("rows", []) if _key(row) not in again and not beside(row, again)]
        first |= {name: value for name, value in later.items() if name not in ("ceilings", "rows")}
        if again:
            first["rows"] = kept + later["rows"]
    return first


def _key(row: Row) -> tuple[str, int]:
    return row["name"], row["batch"]


def beside(rival: Row, again: set[tuple[str, int]]) -> bool:
    """Whether a row is of others' code, beside a prior that is among these."""
    return "prior_images_per_second" in rival and (PRIOR, rival["batch"]) in again


@dataclass(frozen=True)
class Results:
    """A result file is empty where it has not been made yet."""

    files: dict[str, Row]

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """All files that are there."""
        read = {
            name: [json.loads((folder / file).read_text(encoding="utf-8")) for file in files]
            for name, files in FILES.items()
            if (folder / files[0]).exists()
        }
        return cls({name: joined(read[name]) if name in read else {} for name in FILES})

    def medians(self, file: str, side: str = "after") -> dict[str, float]:
        """Of the rows of `bench/before_after.py`, by name."""
        rows = self.files[file].get(side, {}).get("rows", [])
        return {row["name"]: row["median"] for row in rows if "median" in row}

    def on(self, file: str) -> str:
        """The kind of GPU of a run, as a name's end; nothing for an H200 or no run."""
        device = self.files[file].get("device", "")
        return f", on an {device.split()[1]}" if device and "H200" not in device else ""

    def sampling(self, name: str) -> list[Row]:
        """Rows of one path of `bench/sampler.py` in order of batch."""
        rows = self.files["sampler"].get("rows", [])
        rows = [row for row in rows if row["name"] == name and "milliseconds" in row]
        return sorted(rows, key=lambda row: row["batch"])

    def lengths(self, file: str) -> list[Row]:
        """Rows of the prior at several lengths, in their order."""
        rows = [row for row in self.files[file].get("rows", []) if "length" in row]
        return sorted(rows, key=lambda row: row["length"])

    def section(self, file: str, section: str) -> dict[str, Row]:
        """Parts of one section that gave a result."""
        rows = self.files[file].get(section, {})
        return {name: row for name, row in rows.items() if "error" not in row and "left_out" not in row}

    def training(self, name: str) -> Row | None:
        """A row of `bench/train.py` that was run to its end."""
        row = self.files["train"].get("rows", {}).get(name)
        return row if row and "tokens_per_second" in row else None

    def best(self, name: str) -> Row | None:
        """The row of the highest throughput."""
        return max(self.sampling(name), key=lambda row: row["images_per_second"], default=None)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [line_of(head), "|" + "---|" * len(head), *map(line_of, rows)]


def line_of(cells: list[str]) -> str:
    """One row of it."""
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three digits, or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}".rstrip("0").rstrip(".")


def percent(share: float | None) -> str:
    """A share, where there is one."""
    return "" if share is None or share != share else f"{share:.0%}"


def gib(value: float | None) -> str:
    """Memory, where it was measured."""
    return "" if value is None else f"{value:.1f} GiB"

"""What a verb says to people: tables and the files it wrote, on standard output, from the main process."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from digit.printing import put, readable

FILE_WIDTH = 1000  # characters of a line that goes into a file or a pipe, at most
CELL = 200  # and of a cell
ROWS = 1000  # of a table at most; --json gives all
Cell = str | float | int | None


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[Cell]],
    *,
    dim: Collection[str] = (),
) -> None:
    """Print rows by name under `columns`; None shows as -, rows named in `dim` (the paper's) stand back.

    On a terminal that is too narrow, the columns stand in several tables below one another. What stands in
    cells may come from anywhere: it is shown in plain text, shortened, and of very many rows the first.
    """
    if not _speaks():
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=FILE_WIDTH)
    first = dict(islice(rows.items(), ROWS))
    cells = [
        [readable(column, CELL), *(_shown(row[i]) for row in first.values())]
        for i, column in enumerate(columns)
    ]
    names = ["", *(readable(name, CELL) for name in first)]
    console.print(Text(readable(title), "bold"))
    room = console.width - _width(names) if console.is_terminal else None
    for part in _parts(cells, room):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("", no_wrap=True)
        for column in part:
            table.add_column(Text(column[0]), justify="right", no_wrap=True)
        for i, name in enumerate(first, start=1):
            style = "dim" if name in dim else None
            table.add_row(Text(names[i]), *(Text(column[i]) for column in part), style=style)
        console.print(table)
        console.print()
    if len(rows) > ROWS:
        put(f"and {len(rows) - ROWS:,} more rows, which --json gives")


def saved(*paths: Path | str) -> None:
    """Print `saved: PATH`, a line per file or folder that the verb wrote."""
    if _speaks():
        for path in paths:
            put(f"saved: {path}")


def _speaks() -> bool:
    """Whether this is the only process, or the main one of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _parts(columns: list[list[str]], room: int | None) -> Iterator[list[list[str]]]:
    """The columns in groups that fit into `room` characters, each of at least one."""
    part: list[list[str]] = []
    for column in columns:
        if part and room is not None and sum(map(_width, [*part, column])) > room:
            yield part
            part = []
        part.append(column)
    yield part


def _width(column: Sequence[str]) -> int:
    """Characters that a column takes, with the space before the next."""
    return max(map(cell_len, column)) + 2


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        if abs(cell) >= 1000:
            return f"{cell:,.0f}"
        return f"{cell:.0f}" if cell.is_integer() else f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else readable(cell, CELL)

"""Tables for people, on standard error, so that standard output stays the result's."""

from collections.abc import Collection, Mapping, Sequence

from rich.console import Console
from rich.table import Table


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[str | float | int | None]],
    *,
    dim: Collection[str] = (),
) -> None:
    """Print rows by name under `columns`; None shows as -, rows named in `dim` (the paper's) stand back."""
    terminal = Console(stderr=True)
    console = terminal if terminal.is_terminal else Console(stderr=True, width=140)
    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *(_shown(cell) for cell in cells), style="dim" if name in dim else None)
    console.print(table)


def _shown(cell: str | float | int | None) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if cell.is_integer() else f"{cell:.4g}"
    return str(cell)

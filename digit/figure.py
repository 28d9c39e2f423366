"""Plots: matplotlib without a window, imported when something is drawn, since that takes a while.

Words in a plot may be names out of files: they are no mathematics (`$`), in plain characters and short.
"""

from pathlib import Path
from typing import Any

from digit.files import atomic_file
from digit.printing import readable

LINE, LINES = 120, 4  # characters of a line and lines of a text, at most


def new_figure(width: float | int, height: float | int) -> Any:
    """An empty matplotlib Figure of so many inches that can be saved as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path, *, dpi: int = 100) -> Any:
    """Write a figure as a PNG of `dpi` pixels an inch, whole or not at all; returns the figure."""
    from matplotlib.text import Text

    for words in figure.findobj(Text):
        words.set_parse_math(False)
        words.set_text("\n".join(readable(line, LINE) for line in words.get_text().split("\n")[:LINES]))
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=dpi)
    return figure

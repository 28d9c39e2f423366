"""Plots: matplotlib without a window, imported when something is drawn, since that takes a while."""

from pathlib import Path
from typing import Any

from digit.files import atomic_path


def new_figure(width: float | int, height: float | int) -> Any:
    """An empty matplotlib Figure of so many inches that can be saved as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path, *, dpi: int = 100) -> Any:
    """Write a figure as a PNG of `dpi` pixels an inch, whole or not at all; returns the figure."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
    return figure

"""Plots: matplotlib without a window, imported when something is drawn, since that takes a while."""

from typing import Any


def new_figure(width: float | int, height: float | int) -> Any:
    """An empty matplotlib Figure of so many inches that can be saved as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure

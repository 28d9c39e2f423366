"""rows of a sweep -> heat maps and the Pareto plot (DiGIT, figure 6)."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digit.evaluation.sweep import described, pareto, varied
from digit.figure import new_figure
from digit.files import atomic_path

PANELS = 12  # heat maps of one picture at most; beyond, each cell is the best over the other axes

Rows = Sequence[Mapping[str, Any]]


def draw_heat_map(rows: Rows, metric: str, path: Path, *, lower_is_better: bool, title: str) -> None:
    """A metric over the two most varied axes, a panel for each combination of the other axes."""
    from matplotlib.patches import Rectangle  # imported with the figure, not before

    axes = varied(rows)
    down, across = [*axes, *(axis for axis in rows[0]["setting"] if axis not in axes)][:2]
    others = {axis: numbers for axis, numbers in axes.items() if axis not in (down, across)}
    groups = [dict(zip(others, numbers, strict=True)) for numbers in itertools.product(*others.values())]
    if len(groups) > PANELS:
        groups, title = [{}], f"{title}; each cell the best over {', '.join(others)}"
    lines = sorted({row["setting"][down] for row in rows})
    columns = sorted({row["setting"][across] for row in rows})
    choose = min if lower_is_better else max
    panes = []
    for group in groups:
        pane = np.full((len(lines), len(columns)), np.nan)
        for (i, line), (j, column) in itertools.product(enumerate(lines), enumerate(columns)):
            wanted = {**group, down: line, across: column}
            found = [
                row["values"][metric]
                for row in rows
                if all(row["setting"][axis] == number for axis, number in wanted.items())
            ]
            if found:
                pane[i, j] = choose(found)
        panes.append(pane)
    every = np.stack(panes)
    low, high = np.nanmin(every), np.nanmax(every)
    best = low if lower_is_better else high
    wide = min(4, len(panes))
    tall = -(-len(panes) // wide)
    size = (wide * max(3.0, 0.75 * len(columns) + 1.2) + 1, tall * max(2.2, 0.5 * len(lines) + 1.2) + 0.5)
    figure = new_figure(*size)
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(tall, wide, squeeze=False)
    image: Any = None
    for panel in panels.flat[len(panes) :]:
        panel.set_visible(False)
    for panel, pane, group in zip(panels.flat, panes, groups, strict=False):
        colours = "viridis_r" if lower_is_better else "viridis"
        image = panel.imshow(pane, cmap=colours, vmin=low, vmax=high, aspect="auto")
        for (i, j), number in np.ndenumerate(pane):
            if np.isnan(number):
                continue
            bright = (number - low) / (high - low) if high > low else 0.0
            bright = 1 - bright if lower_is_better else bright
            panel.text(
                j,
                i,
                f"{number:.4g}",
                ha="center",
                va="center",
                fontsize=8,
                color="k" if bright > 0.6 else "w",
            )
            if number == best:
                frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="tab:red", linewidth=2.5)
                panel.add_patch(frame)
        panel.set_xticks(range(len(columns)), [f"{number:g}" for number in columns])
        panel.set_yticks(range(len(lines)), [f"{number:g}" for number in lines])
        panel.set(xlabel=across.replace("_", " "), ylabel=down.replace("_", " "))
        panel.set_title(", ".join(f"{axis.replace('_', ' ')} {n:g}" for axis, n in group.items()), fontsize=8)
    figure.colorbar(image, ax=panels, label=metric)
    _save(figure, path)


def draw_pareto(rows: Rows, distance: str, quality: str, path: Path, *, title: str) -> None:
    """Every cell, coloured by the most varied axis; no other cell beats those on the line in both."""
    axes = varied(rows)
    figure = new_figure(8, 5.5)
    panel = figure.subplots()
    first = next(iter(axes), None)
    for number, value in enumerate(axes[first] if first else [None]):
        part = [row for row in rows if first is None or row["setting"][first] == value]
        points = [(row["values"][distance], row["values"][quality]) for row in part]
        label = f"{first.replace('_', ' ')} {value:g}" if first else "the one setting"
        panel.scatter(*zip(*points, strict=True), s=22, color=f"C{number % 10}", label=label)
    front = pareto(rows, distance, quality)
    line = [(row["values"][distance], row["values"][quality]) for row in front]
    panel.plot(*zip(*line, strict=True), color="0.4", linewidth=1, zorder=0)
    middle = (min(row["values"][distance] for row in rows) + max(row["values"][distance] for row in rows)) / 2
    for row, point in zip(front[:12], line[:12], strict=True):
        right = point[0] > middle  # the words go towards the middle, where there is room
        panel.annotate(
            ", ".join(described(row, axes)).replace("_", " "),
            point,
            xytext=(-5 if right else 5, -9),
            ha="right" if right else "left",
            textcoords="offset points",
            fontsize=6,
        )
    panel.set(xlabel=f"{distance} (lower is better)", ylabel=f"{quality} (higher is better)")
    panel.set_title(title, fontsize=9)
    panel.margins(x=0.15)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)

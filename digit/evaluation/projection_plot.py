"""points along PCA's and LDA's directions -> pictures of figure 5: the toy's panels, and real features'."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from digit.evaluation.projection import NUISANCES, Views, lda, pca, toy
from digit.figure import new_figure
from digit.files import atomic_path

_COLOURS = {"PCA": "tab:red", "LDA": "black"}


def draw_toy(path: Path, values: Mapping[str, float], *, seed: int = 0) -> None:
    """Draw a panel by nuisance with both directions, the classes along them, and accuracy below."""
    figure = new_figure(3.2 * len(NUISANCES), 9)
    figure.suptitle("two classes; noise grows along an axis that says nothing about the class")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, 1.6))
    above, below = parts
    panels = above.subplots(3, len(NUISANCES), height_ratios=(2, 1, 1))
    for column, nuisance in zip(panels.T, NUISANCES, strict=True):
        points, labels = toy(nuisance, seed=seed)
        reach = float(points.abs().max()) * 1.05
        column[0].scatter(*points.T.tolist(), c=labels.tolist(), cmap="coolwarm", s=4, alpha=0.5)
        column[0].set(
            title=f"nuisance {nuisance:g}", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal"
        )
        for row, (name, found) in enumerate((("PCA", pca(points, 1)), ("LDA", lda(points, labels, 1))), 1):
            x, y = (0.9 * reach * found[:, 0]).tolist()
            style = {"color": _COLOURS[name], "linestyle": "-" if name == "LDA" else "--"}
            column[0].plot([-x, x], [-y, y], linewidth=2, label=f"{name} direction", **style)
            _histogram(column[row], points @ found, labels)
            column[row].set_title(f"along {name}", fontsize=9)
    panels[0, 0].legend(fontsize=8)
    left, right = below.subplots(1, 2)
    for name, colour in _COLOURS.items():
        accuracy = [values[f"{name} accuracy, nuisance {nuisance:g}"] for nuisance in NUISANCES]
        angles = [values[f"{name} angle, nuisance {nuisance:g}"] for nuisance in NUISANCES]
        left.plot(NUISANCES, accuracy, "o-", color=colour, label=name)
        right.plot(NUISANCES, angles, "o-", color=colour, label=name)
    left.set(xscale="log", xlabel="nuisance, standard deviation", ylabel="accuracy of the nearest class mean")
    left.axhline(0.5, color="0.7", linewidth=1)
    right.set(xscale="log", xlabel="nuisance, standard deviation", ylabel="degrees to the classes' axis")
    for panel in (left, right):
        panel.set_xticks(NUISANCES, [f"{nuisance:g}" for nuisance in NUISANCES], minor=False)
        panel.minorticks_off()
    left.legend()
    _save(figure, path)


def draw_features(
    path: Path,
    views: Mapping[str, Views],
    truth: Int[Tensor, " m"],
    values: Mapping[str, float],
    classes: Sequence[str],
    *,
    title: str,
) -> None:
    """Draw unseen pictures along PCA's and LDA's first directions, a column for each noise of `views`."""
    figure = new_figure(max(9, 2.7 * len(views)), 9)
    figure.suptitle(title)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2, 1))
    above, below = parts
    panels: Any = above.subplots(2, len(views), squeeze=False)
    for number, (noise, view) in enumerate(views.items()):
        for row, (name, points) in enumerate(zip(("PCA", "LDA"), view, strict=True)):
            panel = panels[row, number]
            if points.shape[1] == 1:
                _histogram(panel, points, truth, classes)
            else:
                for place, label in enumerate(truth.unique().tolist()):
                    part = points[truth == label]
                    panel.plot(
                        *part[:, :2].T.tolist(), ".", color=f"C{place}", markersize=4, label=classes[label]
                    )
            panel.set(xticks=[], yticks=[])
            panel.set_title(f"{name}, {noise}: {values[f'{name} accuracy, {noise}']:.2f} right", fontsize=9)
    if len(classes) <= 12:
        panels[0, 0].legend(fontsize=6)
    for panel, measure in zip(below.subplots(1, 2), ("accuracy", "Fisher ratio"), strict=True):
        for name, colour in _COLOURS.items():
            panel.plot(
                range(len(views)),
                [values[f"{name} {measure}, {noise}"] for noise in views],
                "o-",
                color=colour,
                label=name,
            )
        panel.set_xticks(range(len(views)), list(views))
        panel.set(ylabel=f"{measure}, unseen pictures")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend()
    _save(figure, path)


def _histogram(panel: Any, line: Tensor, labels: Tensor, names: Sequence[str] = ("0", "1")) -> None:
    """The points of two classes along one direction, the later class to the right."""
    first, second = labels.unique().tolist()
    line = line if line[labels == second].mean() >= line[labels == first].mean() else -line
    low, high = float(line.min()), float(line.max())
    for colour, label in zip(("tab:blue", "tab:red"), labels.unique().tolist(), strict=True):
        counts = torch.histc(line[labels == label].cpu(), 30, low, high)
        panel.stairs(
            counts.tolist(),
            torch.linspace(low, high, 31).tolist(),
            fill=True,
            alpha=0.5,
            color=colour,
            label=names[label],
        )
    panel.set(yticks=[])


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)

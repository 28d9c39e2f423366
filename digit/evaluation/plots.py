"""Measured values -> plots, as of DiGIT's figures. Each writes a PNG and returns its matplotlib Figure."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from digit.evaluation.prefix import Point
from digit.evaluation.projection import NUISANCES, Views, lda, pca, toy
from digit.evaluation.result import in_words, which_is_better
from digit.evaluation.stability import CHANGE, FEATURES, NOISE, OTHERS, PAPER, SNRS, VECTORS, Perturbation
from digit.evaluation.sweep import described as setting_of
from digit.evaluation.sweep import pareto, varied
from digit.figure import new_figure, save_figure

_PAPER_COLOURS = {"paper, VQ": "0.55", "paper, discriminative": "0.15"}
_LABELS = {
    CHANGE: "share of codes changed (lower is better)",
    VECTORS: "cosine of the codes' vectors (higher is better)",
    FEATURES: "cosine before quantisation (higher is better)",
}
_STRENGTHS = {
    "blur": "blur, standard deviation in px",
    "jpeg": "JPEG quality",
    "shift": "shift, px",
    "brightness": "brightness, factor",
}
PANELS = 12  # heat maps of one picture at most; beyond, each cell is the best over the other axes
NAMED = 12  # classes that a legend names at most
_TOY = ("first class", "second class")
_COLOURS = {"PCA": "tab:red", "LDA": "black"}

Rows = Sequence[Mapping[str, Any]]


def draw_stability(measured: Mapping[str, Mapping[str, float]], path: Path, *, title: str) -> Any:
    """Draw what `stability` yields for each tokenizer by name: noise above, other disturbances below."""
    other = any(f"{CHANGE}, {how.name}" in values for values in measured.values() for how in OTHERS)
    figure = new_figure(15, 10 if other else 5.5)
    figure.suptitle(f"Which codes survive disturbed pictures: {title}")
    grid = figure.add_gridspec(1 + other, 12)  # three panels above, four below
    for column, measure in enumerate((CHANGE, VECTORS, FEATURES)):
        panel = figure.add_subplot(grid[0, 4 * column : 4 * column + 4])
        for number, (name, values) in enumerate(measured.items()):
            _line(panel, values, measure, NOISE, f"C{number}", described(name, values))
        for name, rows in PAPER.items():
            if measure in rows:
                style = {"color": _PAPER_COLOURS[name], "linestyle": "--", "marker": "."}
                panel.plot(range(len(SNRS)), rows[measure], label=name, **style)
        panel.set_xticks(range(len(SNRS)), [f"{snr:g}" for snr in SNRS])
        panel.set(xlabel="SNR, dB (noise grows to the right)", ylabel=_LABELS[measure])
        panel.grid(alpha=0.3)
        if measure == CHANGE:
            panel.set_ylim(0, 1)
            figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    for column, (kind, label) in enumerate(_STRENGTHS.items() if other else ()):
        panel = figure.add_subplot(grid[1, 3 * column : 3 * column + 3])
        chosen = [how for how in OTHERS if how.kind == kind]
        for number, (name, values) in enumerate(measured.items()):
            _line(panel, values, CHANGE, chosen, f"C{number}", name)
        panel.set_xticks(range(len(chosen)), [f"{how.strength:g}" for how in chosen])
        panel.set(xlabel=label, ylim=(0, 1))
        if column == 0:
            panel.set_ylabel(_LABELS[CHANGE])
        panel.grid(alpha=0.3)
    return save_figure(figure, path)


def described(name: str, values: Mapping[str, float]) -> str:
    """A tokenizer in a legend: its name, size of its codebook, and what it keeps of a picture."""
    size = f"K={values['codes']:.0f}, " if "codes" in values else ""
    if "PSNR" not in values:
        return f"{name} ({size}no decoder)"
    return f"{name} ({size}PSNR {values['PSNR']:.1f} dB, sharpness {values['sharpness']:.2f})"


def draw_prefix(points: Sequence[Point], path: Path, *, title: str) -> Any:
    """A panel per metric, a line per model, against the codes given, or their share if lengths differ."""
    metrics = list(dict.fromkeys(name for point in points for name in point.values))
    words = in_words(name for name in metrics if "deviation" not in name)
    figure = new_figure(5.5 * len(words), 4)
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(1, len(words), squeeze=False)[0]
    lengths = sorted({point.length for point in points})
    one = len(lengths) == 1
    given = f"codes given, of {lengths[0]}" if one else "share of a picture's codes that is given"
    for panel, (metric, word) in zip(panels, words.items(), strict=True):
        for model in dict.fromkeys(point.model for point in points):
            here = [point for point in points if point.model == model and metric in point.values]
            line = sorted(here, key=lambda point: point.share)
            places = [p.prefix if one else p.share for p in line]
            label = model if one else f"{model} ({line[0].length} codes)"
            panel.plot(places, [p.values[metric] for p in line], marker="o", markersize=4, label=label)
        panel.set(xlabel=given, ylabel=f"{word} ({which_is_better(metric)} is better)")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    return save_figure(figure, path)


def draw_layers(
    lines: Mapping[str, Sequence[float]],
    path: Path,
    *,
    levels: Mapping[str, float] | None = None,
    title: str = "",
) -> Any:
    """Draw top-1 (a share) by layer, a line for each name; `levels` are single numbers, as of encoders."""
    figure = new_figure(8, 5)
    panel = figure.subplots()
    for number, (name, shares) in enumerate(lines.items()):
        best = max(range(len(shares)), key=shares.__getitem__)
        panel.plot([100 * share for share in shares], marker=".", color=f"C{number}", label=name)
        panel.plot(best, 100 * shares[best], marker="o", markersize=10, fillstyle="none", color=f"C{number}")
    if lines:
        circle = {"marker": "o", "markersize": 10, "fillstyle": "none", "color": "0.4", "linestyle": "none"}
        panel.plot([], [], label="the best layer", **circle)
    for number, (name, share) in enumerate((levels or {}).items()):
        panel.axhline(100 * share, linestyle="--", linewidth=1, color=f"C{len(lines) + number}", label=name)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.set_xlabel("layer (i: what block i reads; the last: what the last block gives)")
    panel.set_ylabel("top-1, % (higher is better)")
    panel.set_title(title, fontsize=10)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return save_figure(figure, path, dpi=110)


def _line(
    panel: Any,
    values: Mapping[str, float],
    measure: str,
    perturbations: Sequence[Perturbation],
    colour: str,
    label: str,
) -> None:
    points = [
        (place, values[f"{measure}, {how.name}"])
        for place, how in enumerate(perturbations)
        if f"{measure}, {how.name}" in values
    ]
    if points:
        panel.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=label)


def draw_heat_map(rows: Rows, metric: str, path: Path, *, title: str) -> Any:
    """A metric over the two most varied axes, a panel for each combination of the other axes."""
    lower = which_is_better(metric) == "lower"
    axes = varied(rows)
    down, across = [*axes, *(axis for axis in rows[0]["setting"] if axis not in axes)][:2]
    others = {axis: numbers for axis, numbers in axes.items() if axis not in (down, across)}
    groups = [dict(zip(others, numbers, strict=True)) for numbers in itertools.product(*others.values())]
    if len(groups) > PANELS:
        groups, title = [{}], f"{title}; each cell the best over {', '.join(others)}"
    lines = sorted({row["setting"][down] for row in rows})
    columns = sorted({row["setting"][across] for row in rows})
    panes = [_pane(rows, metric, group, (down, lines), (across, columns), lower) for group in groups]
    every = np.stack(panes)
    limits = np.nanmin(every), np.nanmax(every)
    wide = min(4, len(panes))
    tall = -(-len(panes) // wide)
    size = (wide * max(3.0, 0.75 * len(columns) + 1.2) + 1, tall * max(2.2, 0.5 * len(lines) + 1.2) + 0.8)
    figure = new_figure(*size)
    words = f"{in_words([metric])[metric]} ({which_is_better(metric)} is better)"
    figure.suptitle(f"{words}, red: the best\n{title}", fontsize=9)
    panels = figure.subplots(tall, wide, squeeze=False)
    image: Any = None
    for panel in panels.flat[len(panes) :]:
        panel.set_visible(False)
    for panel, pane, group in zip(panels.flat, panes, groups, strict=False):
        image = _heat(panel, pane, limits, lower)
        panel.set_xticks(range(len(columns)), [f"{number:g}" for number in columns])
        panel.set_yticks(range(len(lines)), [f"{number:g}" for number in lines])
        panel.set(xlabel=across.replace("_", " "), ylabel=down.replace("_", " "))
        panel.set_title(", ".join(f"{axis.replace('_', ' ')} {n:g}" for axis, n in group.items()), fontsize=8)
    figure.colorbar(image, ax=panels)
    return save_figure(figure, path, dpi=110)


def _pane(
    rows: Rows,
    metric: str,
    group: Mapping[str, Any],
    down: tuple[str, Sequence[Any]],
    across: tuple[str, Sequence[Any]],
    lower: bool,
) -> np.ndarray:
    """The metric by the values of two axes, the best where several rows have them, NaN where none has."""
    pane = np.full((len(down[1]), len(across[1])), np.nan)
    choose = min if lower else max
    for (i, line), (j, column) in itertools.product(enumerate(down[1]), enumerate(across[1])):
        wanted = {**group, down[0]: line, across[0]: column}
        found = [
            row["values"][metric]
            for row in rows
            if all(row["setting"][axis] == number for axis, number in wanted.items())
        ]
        if found:
            pane[i, j] = choose(found)
    return pane


def _heat(panel: Any, pane: np.ndarray, limits: tuple[float, float], lower: bool) -> Any:
    """Colours and numbers of one pane; a red frame around the best of all, which is the brightest."""
    from matplotlib.patches import Rectangle  # imported with the figure, not before

    low, high = limits
    image = panel.imshow(pane, cmap="viridis_r" if lower else "viridis", vmin=low, vmax=high, aspect="auto")
    for (i, j), number in np.ndenumerate(pane):
        if np.isnan(number):
            continue
        bright = (number - low) / (high - low) if high > low else 0.0
        colour = "k" if (1 - bright if lower else bright) > 0.6 else "w"
        panel.text(j, i, f"{number:.4g}", ha="center", va="center", fontsize=8, color=colour)
        if number == (low if lower else high):
            frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="tab:red", linewidth=2.5)
            panel.add_patch(frame)
    return image


def draw_pareto(rows: Rows, distance: str, quality: str, path: Path, *, title: str) -> Any:
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
            ", ".join(setting_of(row, axes)).replace("_", " "),
            point,
            xytext=(-5 if right else 5, -9),
            ha="right" if right else "left",
            textcoords="offset points",
            fontsize=6,
        )
    words = in_words([distance, quality])
    panel.set(xlabel=f"{words[distance]} (lower is better)", ylabel=f"{words[quality]} (higher is better)")
    panel.set_title(f"Every setting; no other beats those on the line in both\n{title}", fontsize=9)
    panel.margins(x=0.15)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return save_figure(figure, path, dpi=110)


def draw_toy(path: Path, values: Mapping[str, float], *, seed: int = 0) -> Any:
    """Draw a panel by nuisance with both directions, the classes along them, and accuracy below."""
    figure = new_figure(3.2 * len(NUISANCES), 9.5)
    figure.suptitle("PCA against LDA on two classes of points; noise grows along an axis without the class")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, 1.6))
    above, below = parts
    panels = above.subplots(3, len(NUISANCES), height_ratios=(2, 1, 1))
    for column, nuisance in zip(panels.T, NUISANCES, strict=True):
        points, labels = toy(nuisance, seed=seed)
        reach = float(points.abs().max()) * 1.05
        column[0].scatter(*points.T.tolist(), c=labels.tolist(), cmap="coolwarm", s=4, alpha=0.5)
        column[0].set(title=f"noise of deviation {nuisance:g}", aspect="equal", xlabel="axis of the classes")
        column[0].set(xlim=(-reach, reach), ylim=(-reach, reach))
        for row, (name, found) in enumerate((("PCA", pca(points, 1)), ("LDA", lda(points, labels, 1))), 1):
            x, y = (0.9 * reach * found[:, 0]).tolist()
            style = {"color": _COLOURS[name], "linestyle": "-" if name == "LDA" else "--"}
            column[0].plot([-x, x], [-y, y], linewidth=2, label=f"{name} direction", **style)
            _histogram(column[row], points @ found, labels)
            column[row].set_xlabel(f"position along {name}")
    panels[0, 0].set_ylabel("axis of the noise")
    panels[0, 0].legend(fontsize=8)
    panels[1, 0].set_ylabel("points")
    panels[2, 0].set_ylabel("points")
    panels[1, 0].legend(fontsize=8)
    left, right = below.subplots(1, 2)
    for name, colour in _COLOURS.items():
        accuracy = [values[f"{name} accuracy, nuisance {nuisance:g}"] for nuisance in NUISANCES]
        angles = [values[f"{name} angle, nuisance {nuisance:g}"] for nuisance in NUISANCES]
        left.plot(NUISANCES, accuracy, "o-", color=colour, label=name)
        right.plot(NUISANCES, angles, "o-", color=colour, label=name)
    left.set(ylabel="accuracy of the nearest class mean\n(higher is better)")
    left.axhline(0.5, color="0.7", linewidth=1, label="chance")
    right.set(ylabel="angle to the classes' axis, degrees\n(lower is better)")
    for panel in (left, right):
        panel.set(xscale="log", xlabel="deviation of the noise (the classes lie 2 apart)")
        panel.set_xticks(NUISANCES, [f"{nuisance:g}" for nuisance in NUISANCES], minor=False)
        panel.minorticks_off()
    left.legend()
    return save_figure(figure, path, dpi=90)


def draw_features(
    path: Path,
    views: Mapping[str, Views],
    truth: Int[Tensor, " m"],
    values: Mapping[str, float],
    classes: Sequence[str],
    *,
    title: str,
) -> Any:
    """Draw unseen pictures along PCA's and LDA's first directions, a column for each noise of `views`."""
    figure = new_figure(max(9, 2.7 * len(views)), 9.5)
    figure.suptitle(title)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.2, 1))
    above, below = parts
    panels: Any = above.subplots(2, len(views), squeeze=False)
    for number, (noise, view) in enumerate(views.items()):
        for row, (name, points) in enumerate(zip(("PCA", "LDA"), view, strict=True)):
            panel = panels[row, number]
            if points.shape[1] == 1:
                _histogram(panel, points, truth, classes)
            else:
                _scatter(panel, points, truth, classes)
                panel.set_ylabel(f"{name} direction 2")
            panel.set(xticks=[], yticks=[], xlabel=f"{name} direction 1")
            share = values[f"{name} accuracy, {noise}"]
            panel.set_title(f"{name}, {noise}: {share:.0%} nearest their class", fontsize=8)
    if len(truth.unique()) <= NAMED:
        named = panels[0, 0].get_legend_handles_labels()
        above.legend(*named, loc="outside lower center", ncols=6, fontsize=8)
    for panel, measure in zip(below.subplots(1, 2), ("accuracy", "Fisher ratio"), strict=True):
        for name, colour in _COLOURS.items():
            shown = [values[f"{name} {measure}, {noise}"] for noise in views]
            panel.plot(range(len(views)), shown, "o-", color=colour, label=name)
        panel.set_xticks(range(len(views)), list(views))
        panel.set(
            xlabel="noise on the pictures, SNR", ylabel=f"{measure}, unseen pictures\n(higher is better)"
        )
        panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
        panel.grid(alpha=0.3)
        panel.legend()
    return save_figure(figure, path, dpi=90)


def _scatter(panel: Any, points: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Points along two directions, a colour by class."""
    for place, label in enumerate(labels.unique().tolist()):
        part = points[labels == label]
        panel.plot(*part[:, :2].T.tolist(), ".", color=f"C{place}", markersize=4, label=classes[label])


def _histogram(panel: Any, line: Tensor, labels: Tensor, names: Sequence[str] = _TOY) -> None:
    """The points of two classes along one direction, the later class to the right."""
    first, second = labels.unique().tolist()
    line = line if line[labels == second].mean() >= line[labels == first].mean() else -line
    low, high = float(line.min()), float(line.max())
    edges = torch.linspace(low, high, 31).tolist()
    for colour, label in (("tab:blue", first), ("tab:red", second)):
        counts = torch.histc(line[labels == label].cpu(), 30, low, high).tolist()
        panel.stairs(counts, edges, fill=True, alpha=0.5, color=colour, label=names[label])
    panel.set(yticks=[])

"""Measured values -> plots of curves: codes under noise, distance by prefix, probes by layer (DiGIT, table 1,
figures 4b and 3b). Each writes a PNG and returns its matplotlib Figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digit.evaluation.perturbations import NOISE, OTHERS, SNRS, Perturbation
from digit.evaluation.prefix import Point
from digit.evaluation.result import in_words, which_is_better
from digit.evaluation.stability import CHANGE, FEATURES, PAPER, VECTORS
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
            line = sorted((p for p in points if p.model == model and metric in p.values), key=_share)
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


def _share(point: Point) -> float:
    return point.share

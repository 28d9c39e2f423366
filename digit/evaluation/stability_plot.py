"""named values -> stability.png: change and cosine against SNR, the paper's rows dashed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from digit.evaluation.perturbations import NOISE, OTHERS, SNRS, Perturbation
from digit.evaluation.stability import CHANGE, FEATURES, PAPER, VECTORS
from digit.figure import new_figure
from digit.files import atomic_path

_PAPER_COLOURS = {"paper, VQ": "0.55", "paper, discriminative": "0.15"}
_LABELS = {
    CHANGE: "share of codes changed",
    VECTORS: "cosine of assigned vectors",
    FEATURES: "cosine before quantisation",
}
_STRENGTHS = {
    "blur": "blur, px of deviation",
    "jpeg": "JPEG quality",
    "shift": "shift, px",
    "brightness": "brightness, factor",
}


def draw_stability(measured: Mapping[str, Mapping[str, float]], path: Path, *, title: str) -> None:
    """Draw what `stability` yields for each tokenizer by name; above noise, below the other perturbations."""
    other = any(f"{CHANGE}, {how.name}" in values for values in measured.values() for how in OTHERS)
    figure = new_figure(15, 10 if other else 5.5)
    figure.suptitle(title)
    grid = figure.add_gridspec(1 + other, 12)  # three panels above, four below
    for column, measure in enumerate((CHANGE, VECTORS, FEATURES)):
        panel = figure.add_subplot(grid[0, 4 * column : 4 * column + 4])
        for number, (name, values) in enumerate(measured.items()):
            _line(panel, values, measure, NOISE, f"C{number}", described(name, values))
        for name, rows in PAPER.items():
            if measure in rows:
                panel.plot(
                    range(len(SNRS)), rows[measure], "--", color=_PAPER_COLOURS[name], marker=".", label=name
                )
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
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def described(name: str, values: Mapping[str, float]) -> str:
    """A tokenizer in a legend: its name, and what it keeps of a picture where it can show it."""
    if "PSNR" not in values:
        return f"{name} (no decoder)"
    return f"{name} (PSNR {values['PSNR']:.1f} dB, sharpness {values['sharpness']:.2f})"


def _line(panel, values, measure, perturbations: Sequence[Perturbation], colour: str, label: str) -> None:
    points = [
        (place, values[f"{measure}, {how.name}"])
        for place, how in enumerate(perturbations)
        if f"{measure}, {how.name}" in values
    ]
    if points:
        panel.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=label)

"""Results of the stability experiment -> summary.md in the paper's form, and stability against sharpness."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from native.reconstruction import FRECHET, MAPS

from digit.evaluation.result import read_result
from digit.evaluation.stability import CHANGE, PAPER, SNRS, VECTORS
from digit.files import atomic_file, write_text_atomic

OWN = ("PSNR", "sharpness", FRECHET, MAPS, "entropy, bits", "usage")
DRAWN = (30.0, 20.0, 10.0)  # dB


def write_summary(folder: Path, sets: Sequence[str], tokenizers: Sequence[str]) -> None:
    """summary.md and vqgans.png out of the results of `sets` in `folder`."""
    values, parts = {}, ["# Stability of tokenizers\n"]
    for name in sets:
        stability = read_result(folder / f"{name}.json")
        again = folder / f"reconstruction-{name}.json"
        values[name] = {**stability["values"], **(read_result(again)["values"] if again.is_file() else {})}
        title = f"{name}: {stability['counts']['pictures']} held-out photos"
        parts.append(table(values[name], tokenizers, title))
    write_text_atomic(folder / "summary.md", "\n".join(parts))
    if sets:
        draw(values, tokenizers, folder / "vqgans.png")


def table(values: Mapping[str, float], tokenizers: Sequence[str], title: str) -> str:
    """Markdown: a row for each tokenizer and each of the paper's, by SNR; then what the tokenizers are."""
    head = [f"{snr:g} dB" for snr in SNRS]
    lines = [f"## {title}", ""]
    for measure in (CHANGE, VECTORS):
        lines += _head([measure, *head])
        for name in tokenizers:
            lines.append(_row(name, [values.get(f"{name}: {measure}, noise {snr:g} dB") for snr in SNRS]))
        lines += [_row(name, rows[measure]) for name, rows in PAPER.items()] + [""]
    lines += _head(["undisturbed", *OWN])
    lines += [_row(name, [values.get(f"{name}: {what}") for what in OWN]) for name in tokenizers]
    return "\n".join([*lines, ""])


def draw(values: Mapping[str, Mapping[str, float]], tokenizers: Sequence[str], path: Path) -> None:
    """A panel a set: the share of codes changed at three strengths against the VQGANs' sharpness."""
    figure = Figure(figsize=(6 * len(values), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for panel, (title, row) in zip(panels, values.items(), strict=True):
        vqgans = [name for name in tokenizers if f"{name}: sharpness" in row]
        others = [name for name in tokenizers if name not in vqgans]
        for number, snr in enumerate(DRAWN):
            key = f"{CHANGE}, noise {snr:g} dB"
            points = sorted((row[f"{name}: sharpness"], row[f"{name}: {key}"]) for name in vqgans)
            panel.plot(*zip(*points, strict=True), "o-", color=f"C{number}", label=f"VQGANs, {snr:g} dB")
            for name in others[:1]:
                panel.axhline(
                    row[f"{name}: {key}"], color=f"C{number}", ls=":", lw=1, label=f"{name}, {snr:g} dB"
                )
        for name in vqgans:
            place = (row[f"{name}: sharpness"], row[f"{name}: {CHANGE}, noise {DRAWN[-1]:g} dB"])
            panel.annotate(name, place, fontsize=8, xytext=(4, 4), textcoords="offset points")
        panel.set(title=title, xlabel="sharpness: edge energy, reconstructed / original")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("share of codes changed by noise")
    panels[0].legend(fontsize=8)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)


def _head(cells: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(cells) + " |", "| " + " | ".join(["---"] * len(cells)) + " |"]


def _row(name: str, numbers: Sequence[float | None]) -> str:
    return "| " + " | ".join([name, *("" if x is None else f"{x:.3f}" for x in numbers)]) + " |"

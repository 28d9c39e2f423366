"""Rows -> rank correlations and a plot: which property of a tokenizer orders the generated distances best."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ablation.plan import TITLES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from digit.files import atomic_file

Row = dict[str, Any]

# key: what it is, and how it is read off a row
PREDICTORS: dict[str, tuple[str, Callable[[Row], float]]] = {
    "token_change": ("tokens changed, noise 20 dB", lambda row: row["token_change_20dB"]),
    "entropy": ("code entropy, bits", lambda row: row["entropy_bits"]),
    "prior_loss": ("prior loss, bits a code", lambda row: row["prior_bits"]),
    "loss_of_entropy": (
        "prior loss / code entropy",
        lambda row: row["prior_bits"] / max(row["entropy_bits"], 1e-9),
    ),
    "reconstruction": ("reconstruction distance", lambda row: row["reconstruction_FD"]),
    "probe_encoder": ("probe on the encoder, top-1", lambda row: row["probe_encoder"]),
    "probe_prior": ("probe on the prior, top-1", lambda row: row["probe_prior"]),
}


def tokenizer_rows(rows: Sequence[Row]) -> list[Row]:
    """One row a tokenizer: the medium prior after all steps."""
    return [row for row in rows if row["size"] == "medium" and row["share"] == 1]


def correlations(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Spearman's correlation of each predictor with the distance; {} for fewer than three tokenizers."""
    if len(rows) < 3:
        return {}
    distances = [row["FD"] for row in rows]
    return {
        key: {"rho": spearman([read(row) for row in rows], distances), "n": len(rows)}
        for key, (_, read) in PREDICTORS.items()
    }


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation, equal values sharing their mean rank; 0 where one side is constant."""
    a, b = _ranks(one), _ranks(other)
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / length if length else 0.0


def _ranks(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return (array[:, None] > array).sum(1) + ((array[:, None] == array).sum(1) - 1) / 2.0


def draw_predictors(rows: Sequence[Row], path: Path) -> None:
    """A panel for each predictor: the distance of every tokenizer against it, strongest correlation first."""
    found = correlations(rows)
    keys = sorted(PREDICTORS, key=lambda key: -abs(found.get(key, {"rho": 0.0})["rho"]))
    figure = Figure(figsize=(16, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 4).ravel()
    colours = {
        name: f"C{number}" for number, name in enumerate(dict.fromkeys(row["encoder"] for row in rows))
    }
    for panel, key in zip(panels, keys, strict=False):
        title, read = PREDICTORS[key]
        for row in rows:
            panel.plot(read(row), row["FD"], "o", color=colours[row["encoder"]], label=TITLES[row["encoder"]])
            note = f"{row['codes']}"
            panel.annotate(
                note, (read(row), row["FD"]), fontsize=7, xytext=(4, 4), textcoords="offset points"
            )
        rho = (
            f"Spearman {found[key]['rho']:+.2f}, {len(rows)} tokenizers"
            if key in found
            else "too few tokenizers"
        )
        panel.set_title(rho, fontsize=10)
        panel.set(xlabel=title, ylabel="generated distance (FD, classifier)")
        panel.grid(alpha=0.3)
    panels[-1].axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))  # an encoder with several K once
    panels[-1].legend(
        named.values(), named.keys(), loc="center", fontsize=9, title="tokenizer (number at a point: K)"
    )
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)

"""The log as a picture: loss over updates, and below it each measured value."""

from pathlib import Path
from typing import Any

from digit.figure import new_figure
from digit.files import atomic_path

OWN = {
    "step",
    "loss",
    "lr",
    "grad_norm",
    "samples_per_second",
    "seconds",
    "eta_seconds",
    "memory_gb",
    "stall",
    "save_seconds",
    "tflops",
    "mfu",
    "event",
}


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Draw loss.png from the records of log.jsonl; nothing is written before there are two losses."""
    losses = [(record["step"], record["loss"]) for record in records if record.get("loss") is not None]
    if len(losses) < 2:
        return
    names = sorted({name for record in records if "loss" not in record for name in record} - OWN)[:5]
    figure = new_figure(8, 3 + 1.6 * len(names))
    panels = figure.subplots(1 + len(names), 1, sharex=True, squeeze=False)[:, 0]
    steps, values = zip(*losses, strict=True)
    panels[0].plot(steps, values, linewidth=0.6, alpha=0.4, color="tab:blue")
    panels[0].plot(steps, _smooth(list(values)), linewidth=1.4, color="tab:blue")
    panels[0].set_ylabel("loss")
    for panel, name in zip(panels[1:], names, strict=True):
        points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
        panel.plot(*zip(*points, strict=True), marker=".", color="tab:orange")
        panel.set_ylabel(name)
    panels[-1].set_xlabel("updates")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _smooth(values: list[float]) -> list[float]:
    """A running mean that forgets with a time constant of a twentieth of the curve."""
    keep = 1 - 1 / max(1.0, len(values) / 20)
    smoothed, mean = [], values[0]
    for value in values:
        mean = keep * mean + (1 - keep) * value
        smoothed.append(mean)
    return smoothed

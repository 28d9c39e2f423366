"""points -> prefix.png: distance against the codes given, a line a model."""

from collections.abc import Sequence
from pathlib import Path

from digit.evaluation.prefix import Point
from digit.figure import new_figure
from digit.files import atomic_path


def draw_prefix(points: Sequence[Point], path: Path, *, title: str) -> None:
    """A panel a metric. The axis is the number of given codes, or their share where lengths are unequal."""
    metrics = list(dict.fromkeys(name for point in points for name in point.values))
    metrics = [name for name in metrics if "deviation" not in name]
    figure = new_figure(5.5 * len(metrics), 4)
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    lengths = sorted({point.length for point in points})
    words = "codes given" if len(lengths) == 1 else "share of a picture's codes that is given"
    for panel, metric in zip(panels, metrics, strict=True):
        for model in dict.fromkeys(point.model for point in points):
            line = [p for p in points if p.model == model and metric in p.values]
            places = [p.prefix if len(lengths) == 1 else p.share for p in line]
            label = f"{model} ({line[0].length} codes)"
            panel.plot(places, [p.values[metric] for p in line], marker="o", markersize=4, label=label)
        panel.set(xlabel=words, ylabel=metric)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)

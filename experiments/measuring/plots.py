"""Results -> the plots of the page: figure 4b, figure 6 and figure 3b side by side for all systems."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from measuring.found import Found, Row, values_of, where
from measuring.plan import KINDS, SYSTEMS
from measuring.scale import CLASS, FREE

from digit.evaluation.plots import draw_layers
from digit.evaluation.sweep import pareto
from digit.files import atomic_file

COLOURS = {"digit": "tab:red", "vq": "tab:blue", "vq_compute": "tab:cyan", "masked": "tab:orange"}
PLAIN = {"temperature": 1.0, "top_k": 0.0, "guidance": 1.0, "renderer_top_p": 0.9}


def draw_all(found: Found, folder: Path) -> list[Path]:
    """Draw the plots that there are results for; the files."""
    drawings: dict[str, Callable[[Found, Path], bool]] = {
        "prefix.png": draw_prefixes,
        "sweep-free.png": draw_filters,
        "sweep-renderer.png": draw_renderer,
        "sweep-class.png": draw_guidance,
        "sweep-pareto.png": draw_paretos,
        "probe.png": draw_probe,
    }
    return [folder / name for name, draw in drawings.items() if draw(found, folder / name)]


def draw_prefixes(found: Found, path: Path) -> bool:
    """Figure 4b: a row a network, a column without and one with classes."""
    ways = [way for way in KINDS if any(found.points(system, way) for system in SYSTEMS)]
    if not ways:
        return False
    figure, panels = _figure(len(found.networks), len(ways), 5.5, 3.6)
    for line, distance in zip(panels, found.distances, strict=True):
        for panel, way in zip(line, ways, strict=True):
            for system, title in SYSTEMS.items():
                for kind, style, note in (
                    ("prefix", "o-", ""),
                    ("prefix_train", "x:", ", training pictures"),
                ):
                    points = found.points(system, way, kind)
                    if points:
                        places = [point.prefix for point in points]
                        numbers = [point.values[distance] for point in points]
                        how = {"color": COLOURS[system], "markersize": 4}
                        panel.plot(places, numbers, style, label=title + note, **how)
            panel.set(xlabel=f"codes given, of {points_length(found)}", ylabel=distance, title=KINDS[way])
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
    return _save(figure, path)


def points_length(found: Found) -> int:
    """Codes of a picture."""
    return next(p.length for s in SYSTEMS for w in KINDS for p in found.points(s, w))


def draw_filters(found: Found, path: Path) -> bool:
    """Figure 6: top-k and top-p of each prior without classes, a row a network."""
    systems = [system for system in ("digit", "vq") if found.rows(system, FREE)]
    if not systems:
        return False
    figure, panels = _figure(len(found.networks), len(systems), 4.6, 3.0)
    for line, distance in zip(panels, found.distances, strict=True):
        for panel, system in zip(line, systems, strict=True):
            rows = where(found.rows(system, FREE), temperature=1.0, guidance=1.0, renderer_top_p=0.9)
            _heat(panel, rows, "top_p", "top_k", distance)
            panel.set_title(f"{SYSTEMS[system]}\n{distance}", fontsize=8)
    return _save(figure, path)


def draw_renderer(found: Found, path: Path) -> bool:
    """Figure 6: top-p of the prior and of the renderer, a panel a network."""
    rows = where(found.rows("digit", FREE), temperature=1.0, top_k=0.0)
    if len(values_of(rows, "renderer_top_p")) < 2:
        return False
    figure, panels = _figure(1, len(found.networks), 4.6, 3.2)
    for panel, distance in zip(panels[0], found.distances, strict=True):
        _heat(panel, rows, "top_p", "renderer_top_p", distance)
        panel.set_title(f"{SYSTEMS['digit']}\n{distance}", fontsize=8)
    return _save(figure, path)


def draw_guidance(found: Found, path: Path) -> bool:
    """Distance against guidance by top-p, a row a network, a column a system."""
    systems = [s for s in SYSTEMS if len(values_of(found.rows(s, CLASS), "guidance")) > 1]
    if not systems:
        return False
    figure, panels = _figure(len(found.networks), len(systems), 3.6, 3.0, sharey="row")
    for line, distance in zip(panels, found.distances, strict=True):
        for panel, system in zip(line, systems, strict=True):
            rows = where(found.rows(system, CLASS), temperature=1.0, top_k=0.0, renderer_top_p=0.9)
            for top_p in values_of(rows, "top_p"):
                part = sorted(where(rows, top_p=top_p), key=lambda row: row["setting"]["guidance"])
                places = [row["setting"]["guidance"] for row in part]
                how = {"label": f"top-p {top_p:g}", "color": f"C{round(10 * (1 - top_p))}"}
                panel.plot(places, [row["values"][distance] for row in part], "o-", **how)
            panel.set(xlabel="guidance", yscale="log")
            _plain(panel.yaxis)
            panel.set_title(SYSTEMS[system], fontsize=8)
            panel.grid(alpha=0.3, which="both")
            panel.legend(fontsize=7)
        line[0].set_ylabel(distance)
    return _save(figure, path)


def draw_paretos(found: Found, path: Path) -> bool:
    """Distance against inception score of every cell, a row a network; the line is what no cell beats."""
    ways = [way for way in KINDS if any(found.rows(system, way) for system in SYSTEMS)]
    if not ways:
        return False
    figure, panels = _figure(len(found.networks), len(ways), 5.5, 3.8)
    for line, network in zip(panels, found.networks, strict=True):
        distance, score = f"FD-{network}", f"IS-{network}"
        for panel, way in zip(line, ways, strict=True):
            for system, title in SYSTEMS.items():
                rows = found.rows(system, way)
                if rows:
                    front = pareto(rows, distance, score)
                    for marker, part, name in ((".", rows, title), ("-", front, None)):
                        pairs = [(row["values"][distance], row["values"][score]) for row in part]
                        panel.plot(*zip(*pairs, strict=True), marker, color=COLOURS[system], label=name)
            panel.set(xlabel=f"{distance} (lower is better)", ylabel=score, xscale="log", title=KINDS[way])
            _plain(panel.xaxis)
            panel.grid(alpha=0.3, which="both")
            panel.legend(fontsize=7)
    return _save(figure, path)


def draw_probe(found: Found, path: Path) -> bool:
    """Figure 3b: top-1 by layer of both priors, and the encoder's as a level."""
    probe = found.get("probe")
    if probe is None:
        return False
    lines = {title: layers for title, layers in probe_layers(probe).items() if len(layers) > 1}
    levels = {title: layers[0] for title, layers in probe_layers(probe).items() if len(layers) == 1}
    draw_layers(
        lines, path, levels=levels, title="linear probe of the priors by layer, CIFAR-10 test pictures"
    )
    return True


def probe_layers(probe: dict[str, Any]) -> dict[str, list[float]]:
    """Top-1 by layer, by what was probed, in words."""
    names = list(dict.fromkeys(name.split(": ")[0] for name in probe["values"]))
    titles = ["DiGIT prior, K=1024", "VQ-only prior, K=4096", "encoder of the tokenizer"]
    found = {}
    for name, title in zip(names, titles, strict=True):
        start = f"{name}: top-1 layer "
        found[title] = [value for key, value in probe["values"].items() if key.startswith(start)]
    return found


def _figure(down: int, across: int, wide: float, tall: float, **how: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(wide * across, tall * down), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(down, across, squeeze=False, **how)


def _heat(panel: Any, rows: Sequence[Row], across: str, down: str, metric: str) -> None:
    """A metric over two axes, dark is good; the best cell is framed in bold."""
    columns, lines = values_of(rows, across), values_of(rows, down)
    if down == "top_k" and 0 in lines:  # all codes: the longest list of all
        lines = [*(value for value in lines if value), 0]
    cells = np.full((len(lines), len(columns)), np.nan)
    for row in rows:
        place = lines.index(row["setting"][down]), columns.index(row["setting"][across])
        cells[place] = row["values"][metric]
    panel.imshow(cells, cmap="viridis", aspect="auto")
    best, middle = np.nanmin(cells), (np.nanmin(cells) + np.nanmax(cells)) / 2
    for (i, j), number in np.ndenumerate(cells):
        if not np.isnan(number):
            how: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
            weight, colour = "bold" if number == best else "normal", "k" if number > middle else "w"
            text = f"[{number:.1f}]" if number == best else f"{number:.1f}"
            panel.text(j, i, text, weight=weight, color=colour, **how)
    panel.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    panel.set_yticks(range(len(lines)), ["all" if down == "top_k" and v == 0 else f"{v:g}" for v in lines])
    words = {name: name.replace("_", " ").replace("top ", "top-") for name in (across, down)}
    panel.set(xlabel=words[across], ylabel=words[down])


def _plain(axis: Any) -> None:
    """Numbers as people write them, on a logarithmic axis too."""
    for each in ("major", "minor"):
        getattr(axis, f"set_{each}_formatter")(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(subs=(2, 3, 5)))


def _save(figure: Figure, path: Path) -> bool:
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
    return True

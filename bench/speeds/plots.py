"""The pictures of docs/performance.md."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from speeds.goals import EIGHT, MASKED, PRIOR, RENDERER
from speeds.results import Results

LINES = {  # path: (row, colour)
    "prior": (PRIOR, "tab:blue"),
    "prior, 8-bit caches": (PRIOR + EIGHT, "tab:cyan"),
    "autoregressive renderer": (RENDERER, "tab:red"),
    "masked renderer, 8 steps": (MASKED, "tab:green"),
}


def draw(results: Results, folder: Path) -> None:
    """performance-batch.png and performance-length.png."""
    figure = _figure(15)
    sampling, tokens, memory = figure.subplots(1, 3)
    throughput(sampling, results)
    tokenizer(tokens, results)
    peaks(memory, results)
    figure.savefig(folder / "performance-batch.png", dpi=110)
    measured = results.lengths("sampler") or results.lengths("length")
    figure = _figure(11 if measured else 6)
    panels = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    position(panels[0], results)
    if measured:
        length(panels[1], results)
    figure.savefig(folder / "performance-length.png", dpi=110)


def _figure(width: float) -> Figure:
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def throughput(axes: Axes, results: Results) -> None:
    """Images a second of the samplers, and their ceilings."""
    for path, (name, colour) in LINES.items():
        rows = results.sampling(name)
        sizes = [row["batch"] for row in rows]
        axes.plot(sizes, [row["images_per_second"] for row in rows], "o-", color=colour, label=path)
        limits = [row["limit_images_per_second"] for row in rows]
        axes.plot(sizes, limits, ":", color=colour, linewidth=1)
    axes.plot([], [], ":", color="grey", label="ceiling of each")
    _batches(axes, "images per second")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())


def tokenizer(axes: Axes, results: Results) -> None:
    """Images a second of the tokenizer, and the rivals at their batch."""
    rows = list(results.section("tokenizer", "batch").values())
    codes = results.section("tokenizer", "codes")
    rows = sorted([*rows, codes["digit"]], key=lambda row: row["batch"])
    axes.plot(
        [row["batch"] for row in rows],
        [row["images_per_s"] for row in rows],
        "o-",
        color="tab:blue",
        label="digit",
    )
    for name, mark in (("timm, compiled", "s"), ("timm, eager", "^")):
        row = codes[name]
        axes.plot([row["batch"]], [row["images_per_s"]], mark, color="tab:grey", label=name)
    _batches(axes, "images per second, pixels to codes")
    axes.set_ylim(bottom=0)


def peaks(axes: Axes, results: Results) -> None:
    """Peak memory; rows that held the caches of the row before them are left out."""
    for path in ("prior", "autoregressive renderer", "masked renderer, 8 steps"):
        name, colour = LINES[path]
        rows = results.sampling(name)
        axes.plot(
            [row["batch"] for row in rows],
            [row["peak_gib"] for row in rows],
            "o-",
            color=colour,
            label=path,
        )
    rows = list(results.section("tokenizer", "batch").values())
    sizes, peak = [row["batch"] for row in rows], [row["peak_gib"] for row in rows]
    axes.plot(sizes, peak, "s-", color="tab:grey", label="tokenizer")
    _batches(axes, "peak memory, GiB")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(ScalarFormatter())


def _batches(axes: Axes, what: str) -> None:
    axes.set_xscale("log", base=4)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("images in a batch")
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def position(axes: Axes, results: Results) -> None:
    """Milliseconds of one position against the positions before it: two measured points a batch."""
    for batch, colour in ((256, "tab:blue"), (512, "tab:orange"), (1024, "tab:green")):
        points = []
        for name, before in ((PRIOR, 128), (RENDERER, 384)):
            row = next((r for r in results.sampling(name) if r["batch"] == batch), None)
            if row:
                points.append(
                    (before, row["milliseconds"] / 256, batch / row["limit_images_per_second"] * 1e3 / 256)
                )
        before, measured, limit = zip(*points, strict=True)
        axes.plot(before, measured, "o-", color=colour, label=f"batch {batch}")
        axes.plot(before, limit, ":", color=colour, linewidth=1)
    axes.plot([], [], ":", color="grey", label="least time by the ceiling")
    axes.set(xlabel="positions in the cache, on average (prior, renderer)", ylabel="ms per position, GPU")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def length(axes: Axes, results: Results) -> None:
    """Milliseconds of a batch against the codes of an image, where that was run."""
    for file, colour in (("sampler", "tab:blue"), ("length", "tab:red")):
        rows = results.lengths(file)
        if rows:
            place = results.files[file]["device"]
            sizes = [row["length"] for row in rows]
            label = f"batch {rows[0]['batch']}, {'CPU' if file == 'length' else place}"
            axes.plot(sizes, [row["milliseconds"] for row in rows], "o-", color=colour, label=label)
            first = rows[0]["milliseconds"] / rows[0]["length"]
            axes.plot(sizes, [first * each for each in sizes], ":", color=colour, linewidth=1)
    axes.plot([], [], ":", color="grey", label="in proportion to the length")
    axes.set(xlabel="codes per image", ylabel="ms per batch")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)

"""How time and memory grow with the work."""

import numpy as np
from speeds.goals import PRIOR, RENDERER
from speeds.results import Results, gib, number, table
from speeds.tables import SAMPLERS


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Start and slope of the straight line of least squares."""
    slope, start = np.polyfit(x, y, 1)
    return float(start), float(slope)


def batch(results: Results) -> list[str]:
    """Milliseconds and memory of a batch as lines, from 256 images on."""
    rows = []
    for path, name in SAMPLERS.items():
        found = [row for row in results.sampling(name) if row["batch"] >= 256]
        if len(found) < 3:
            continue
        sizes = [row["batch"] for row in found]
        fixed, each = line(sizes, [row["milliseconds"] for row in found])
        _, memory = line(sizes, [1024 * row["peak_gib"] for row in found])
        rows.append(
            [
                path,
                f"{fixed:.0f} ms",
                f"{each:.3f} ms",
                number(1000 / each),
                f"{memory:.1f} MiB",
            ]
        )
    head = ["batches from 256 on", "fixed", "each image", "so at most, img/s", "memory per image"]
    tokens = results.section("tokenizer", "batch")
    sizes = [row["batch"] for row in tokens.values()]
    fixed, each = line(sizes, [row["ms"] for row in tokens.values()])
    _, memory = line(sizes, [1024 * row["peak_gib"] for row in tokens.values()])
    rows.append(
        [
            "tokenizer, all batches",
            f"{fixed:.1f} ms",
            f"{each:.3f} ms",
            number(1000 / each),
            f"{memory:.1f} MiB",
        ]
    )
    return [*table(head, rows), "", *small(results), "", *training(results)]


def small(results: Results) -> list[str]:
    """How much longer than one image the batches take."""
    words = []
    for path, name in SAMPLERS.items():
        found = results.sampling(name)
        if len(found) > 1 and found[0]["batch"] == 1:
            one, middle, last = found[0], found[len(found) // 2], found[-1]
            times = [
                f"{each['batch']:,} images take {each['milliseconds'] / one['milliseconds']:.1f} times"
                for each in (middle, last)
            ]
            words.append(f"{path}: {' and '.join(times)} as long as one")
    return [f"{'; '.join(words)}."] if words else []


def training(results: Results) -> list[str]:
    """Two micro-batches of one model."""
    two = [results.training(f"base, {size}") for size in (256, 512)]
    if None in two:
        return []
    half, whole = (row for row in two if row is not None)
    return [
        (
            "Training: twice the micro-batch, 512 instead of 256 images, takes"
            f" {whole['update_ms'] / half['update_ms']:.2f} times as long and {gib(whole['peak_gib'])}"
            f" instead of {gib(half['peak_gib'])}."
        )
    ]


def length(results: Results) -> list[str]:
    """One position of the prior and of the renderer, whose caches are three times as full on average."""
    rows = []
    for first in results.sampling(PRIOR):
        second = next((r for r in results.sampling(RENDERER) if r["batch"] == first["batch"]), None)
        if second and first["batch"] > 1:
            one, two = first["milliseconds"] / 256, second["milliseconds"] / 256
            rows.append([str(first["batch"]), f"{one:.2f}", f"{two:.2f}", f"{two / one:.2f}"])
    head = [
        "batch",
        "prior, ms per position (128 before it on average)",
        "renderer (384 before it, its prefix read in one pass)",
        "ratio",
    ]
    lines = table(head, rows)
    for file in ("sampler", "length"):
        found = results.lengths(file)
        if found:
            lines += ["", *lengths(found, results.files[file]["device"])]
    return lines


def lengths(found: list[dict], device: str) -> list[str]:
    """The prior at several lengths."""
    rows = []
    for row in found:
        position = row["milliseconds"] / row["length"]
        rows.append([str(row["length"]), number(row["milliseconds"]), f"{position:.2f}"])
    head = [f"codes per image, batch {found[0]['batch']}, {device}", "ms per batch", "ms per position"]
    return table(head, rows)

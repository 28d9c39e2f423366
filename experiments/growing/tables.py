"""bench/results -> the measured tables of docs/scaling.md."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from digit.files import read_json
from digit.nn.batch import CodeBatch
from digit.prior import Prior
from digit.run.recipes import RECIPES
from digit.training import estimate

VERBS = {
    "index": "open a zip",
    "fit": "digit fit",
    "statistics": "digit evaluate images",
    "tokenize": "digit tokenize",
}
PARTS = {
    "train_219M": "training, recipe base",
    "train_732M": "training, recipe large_cond",
    "sample": "sampling",
    "tokenize": "tokenising",
    "kmeans": "K-means",
}


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def data(results: Path) -> list[str]:
    """Peak memory of the commands on a set and on five times that set, and an epoch's order."""
    rows = []
    for name, row in read_json(results / "memory.json")["results"].items():
        small, large = row["pictures_1x"], row["pictures_5x"]
        added = (row["megabytes_5x"] - row["megabytes_1x"]) * 1e6 / (large - small)
        rows.append(
            (
                VERBS[name],
                f"{small:,}",
                f"{row['megabytes_1x']:.0f} MB",
                f"{large:,}",
                f"{row['megabytes_5x']:.0f} MB",
                f"{added:,.0f} bytes",
            )
        )
    growth = read_json(results / "growth.json")
    order = [
        (
            f"{row['pictures']:,}",
            f"{row['seconds']:.2f} s",
            f"{row['seconds_of_a_later_batch'] * 1e3:.2f} ms",
            f"{row['bytes_a_picture']:.0f} bytes",
        )
        for row in growth["order"]
    ]
    rates = growth["decode_per_second"]
    return [
        *table(("peak memory of", "pictures", "", "pictures", "", "one picture more"), rows),
        "",
        *table(
            ("order of an epoch over", "its first batch", "a later one", "peak memory per picture"), order
        ),
        "",
        f"One core ({growth['processor']}) decodes per second {rates['views_1']:.0f} JPEGs of "
        f"{rates['bytes'] / 1e3:.0f} kB to one picture of 256 px, {rates['views_4']:.0f} to four views, "
        f"and hashes {growth['sha256_gb_per_second']:.1f} GB.",
    ]


def model(results: Path) -> list[str]:
    """Speed and memory against parameters."""
    rows = []
    recipes = read_json(results / "recipes.json")
    for name in ("ablation_39m", "base", "large"):
        for mode in ("eager", "compiled"):
            row = recipes["recipes"][name][mode]
            length = 196 if name == "ablation_39m" else 256
            tokens, share = row["images_per_second"] * length, row["share_of_dense_bf16"]
            rows.append(_speed(row, mode, "H200", tokens, share, row["memory_gib"]))
    train = read_json(results / "train-h100.json")
    for name, key in (("base", "base, 256"), ("base", "base, 128"), ("large", "large, 128")):
        row = train["rows"][key]
        known = recipes["recipes"][name]["eager"] | {"micro_batch": row["way"]["micro"]}
        tokens, share = row["tokens_per_second"], row["mfu"]
        rows.append(_speed(known, "compiled, kernels", "H100", tokens, share, row["peak_gib"]))
    return table(("parameters", "micro-batch", "how", "GPU", "tokens/s", "MFU", "peak memory"), rows)


def _speed(
    row: dict[str, Any], how: str, gpu: str, tokens: float, share: float, gib: float
) -> tuple[str, ...]:
    return (
        f"{row['parameters'] / 1e6:.0f}M",
        str(row["micro_batch"]),
        how,
        gpu,
        f"{tokens:,.0f}",
        f"{share:.1%}",
        f"{gib:.1f} GiB",
    )


def gpus(results: Path) -> list[str]:
    """What ran in one process and in several."""
    lines = []
    path = results / "scaling-gpu.json"
    if path.exists():
        lines += _ratios(read_json(path))
    else:
        lines.append("On two GPUs: **not run**; no machine with two was at hand.")
    return [*lines, "", *_ratios(read_json(results / "scaling-cpu.json"))]


def _ratios(result: dict[str, Any]) -> list[str]:
    rows = []
    for part, row in result["rows"].items():
        if "ratio" not in row:
            rows.append((PARTS[part], "not run", "", "", ""))
            continue
        seconds = [row[name]["seconds"] for name in ("one", "several")]
        several = row.get("ratios", [row["ratio"]])
        rows.append(
            (
                PARTS[part],
                *(f"{1e3 * value:,.0f} ms" for value in seconds),
                " ".join(f"{value:.2f}" for value in several),
                "yes" if row["agrees"] else "**no**",
            )
        )
    lines = [line for row in result["rows"].values() for line in _fit(row)]
    load = result["load_average_at_the_start"][0]
    title = f"{result['processes']} processes, {result['device']}, {result['cores']} cores, load {load:.0f}"
    head = ("part", "one process", "several", "ratios", "same result")
    return [f"{title}:", "", *table(head, rows), *lines]


def _fit(row: dict[str, Any]) -> list[str]:
    """Where the time of a K-means fit went, of runs that say it."""
    both = [row.get(name, {}) for name in ("one", "several")]
    if not all(isinstance(each.get("between_updates"), list) for each in both):
        return []
    start = [1e3 * each["to_first_update"] for each in both]
    between = [1e3 * sum(each["between_updates"]) for each in both]
    return [
        "",
        (
            f"K-means: {start[0]:.0f} and {start[1]:.0f} ms to the first update, {between[0]:.0f} and"
            f" {between[1]:.0f} ms from there to the last, which is {between[0] / between[1]:.2f} times less."
        ),
    ]


def soak(results: Path) -> list[str]:
    """Slopes of the soak."""
    found = read_json(results / "soak.json")
    rows = []
    fits = {"one process": found["one_process"]["fit"]} | {
        f"digit {verb}": fit for verb, fit in found["commands"]["fit"].items()
    }
    for name, fit in fits.items():
        memory, files, threads = (fit[gauge] for gauge in ("resident_mb", "descriptors", "threads"))
        slope = f"{memory['per_round']:+.2f} ± {memory['error']:.2f} MB" if "per_round" in memory else ""
        growth = f"{memory['growth']:+.2%}" if "growth" in memory else ""
        rows.append(
            (
                name,
                str(memory["rounds"]),
                f"{memory['least']:.0f} to {memory['most']:.0f} MB",
                slope,
                growth,
                _range(files),
                _range(threads),
            )
        )
    columns = ("", "rounds", "resident", "per round", "over these rounds", "descriptors", "threads")
    return table(columns, rows)


def _range(gauge: dict[str, float]) -> str:
    least, most = gauge.get("least", gauge["mean"]), gauge.get("most", gauge["mean"])
    return f"{least:.0f}" if least == most else f"{least:.0f} to {most:.0f}"


def memory(results: Path) -> list[str]:
    """The estimate of --dry-run beside torch.cuda.max_memory_allocated."""
    train = read_json(results / "train-h100.json")["rows"]
    rows = []
    for key, name, micro, layers in (
        ("base, 256", "base", 256, None),
        ("base, 128", "base", 128, None),
        ("large, 128", "large", 128, None),
        ("screen, package", "base", 128, 4),
    ):
        shape: Any = RECIPES[name].model
        shape = replace(shape, layers=layers or shape.layers)
        with torch.device("meta"):
            stage = Prior(shape)
        config = replace(RECIPES[name].training, batch=micro, micro_batch=None)
        batch = CodeBatch(torch.empty(2, shape.length, dtype=torch.int64, device="meta"))
        parts = estimate.memory(stage, batch, config, processes=1)
        assert parts is not None
        counted = parts.counted / 2**30
        measured = train[key]["peak_gib"]
        size = sum(p.numel() for p in stage.parameters()) / 1e6
        error = f"{counted / measured - 1:+.1%}"
        rows.append((f"{size:.0f}M", str(micro), f"{counted:.2f} GiB", f"{measured:.2f} GiB", error))
    return table(("parameters", "micro-batch", "estimate", "measured on an H100", "error"), rows)

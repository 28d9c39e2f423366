"""Every measured row, path by path."""

from statistics import mean, stdev
from typing import Any

from speeds.goals import EIGHT, MASKED, RENDERER
from speeds.results import PRIOR, Results, Row, gib, number, percent, table

SAMPLERS = {
    "prior": PRIOR,
    "prior, 8-bit caches": PRIOR + EIGHT,
    "autoregressive renderer": RENDERER,
    "autoregressive renderer, 8-bit caches": RENDERER + EIGHT,
    "masked renderer, 8 steps": MASKED,
}


# What bench/tokenizer.py and bench/vqgan.py measure; older results hold more.
TOKENIZERS = ("digit", "digit, compiled", "digit, features only", "digit, pictures of 256 pixels")
TOKENIZERS += ("timm, eager", "timm, compiled")
CONVOLUTIONS = ("digit", "autocast float16", "compiled bfloat16")


def machine(results: Results) -> list[str]:
    """Whose figures they are."""
    rows, rates, scripts = [], {}, {}
    for name in ("sampler", "tokenizer", "kmeans", "train", "train_h100", "vqgan"):
        result = results.files[name]
        if result:
            limits = result.get("ceilings", result)
            rates[name] = limits["matmul_tflops"]
            speeds = [f"{limits['matmul_tflops']:.0f} TFLOP/s", f"{limits['copy_tb_per_s']:.2f} TB/s"]
            script = {"train_h100": "train"}.get(name, name)
            scripts[name] = f"`bench/{script}.py`{results.on(name)}"
            rows.append([scripts[name], result["device"], result["torch"], *speeds])
    lines = table(["run", "GPU", "torch", "8192 x 8192 product, bf16", "copy"], rows)
    slowest = min(rates, key=lambda name: rates[name])
    less = 1 - rates[slowest] / max(rates.values())
    if less > 0.05:
        lines += [
            "",
            (
                f"In the run of {scripts[slowest]} the product was {less:.0%} slower than in the fastest"
                " run, so shares of what is bound by products look that much larger there."
            ),
        ]
    return lines


def before_after(results: Results, file: str) -> list[str]:
    """Every path of a run with the code of before and of after."""
    before, after = (results.medians(file, side) for side in ("before", "after"))
    content = results.files[file]
    units = {row["name"]: row["unit"] for row in content["after"]["rows"]}
    rows = []
    for name, value in after.items():
        faster = units[name] in ("img/s", "TFLOP/s")
        old = before.get(name)
        change = "" if old is None else f"{(value / old if faster else old / value) - 1:+.1%}"
        shown = ["" if each is None else f"{number(each)} {units[name]}" for each in (old, value)]
        rows.append([name, *shown, change])
    rows += [[name, f"{number(before[name])} TFLOP/s", "", ""] for name in before if name not in after]
    commits = [content[side]["commit"] for side in ("before", "after")]
    return table(["path", f"before ({commits[0]})", f"after ({commits[1]})", "speed"], rows)


def seeds(results: Results) -> list[str]:
    """Of 64 seeds, how many have other codes when they are drawn otherwise: before and after."""
    old, counts = results.medians("seeds", "before"), dict[str, dict[str, str]]()
    for row in results.files["seeds"]["after"]["rows"]:
        if row["unit"] == "of 64 images differ":
            way, _, other = row["name"].partition(", ")
            counts.setdefault(other, {})[way] = f"{old[row['name']]:.0f} to {row['median']:.0f}"
    ways = list(next(iter(counts.values())))
    rows = [[other, *(found[way] for way in ways)] for other, found in counts.items()]
    return table(["beside bfloat16, 64 at once", *ways], rows)


def distances(results: Results) -> list[str]:
    """The bundled model's Fréchet distances over blocks of seeds: mean and deviation, before and after."""
    rows = []
    for row in results.files["seeds"]["before"]["rows"]:
        if row["unit"] == "Fréchet distance":
            after = next(r for r in results.files["seeds"]["after"]["rows"] if r["name"] == row["name"])
            spread = [f"{mean(r['values']):.3f} ± {stdev(r['values']):.3f}" for r in (row, after)]
            rows.append([row["name"], *spread])
    return table(["five blocks of seeds", "before", "after"], rows)


def sampling(results: Results) -> list[str]:
    """Every batch of every sampler."""
    rows = []
    for path, name in SAMPLERS.items():
        for row in results.sampling(name):
            share = "" if row["share_of_limit"] > 1 else percent(row["share_of_limit"])
            speed = [number(row["images_per_second"]), number(row["milliseconds"])]
            first = f"{row['first_call_seconds']:.1f}"
            rows.append([path, str(row["batch"]), *speed, share, first, gib(row["peak_gib"])])
    head = ["path", "batch", "img/s", "ms per batch", "of its ceiling", "first call, s", "peak memory"]
    return table(head, rows)


def agreement(results: Results) -> list[str]:
    """Fast path and plain path."""
    rows = []
    for row in results.files["sampler"].get("rows", []):
        name = row["name"].removesuffix(", random weights")
        if "share" in row:
            rows.append([name, f"{row['share']:.1%}"])
        elif "largest" in row:
            rows.append([name, f"mean {row['mean']:.4f}, largest {row['largest']:.4f}"])
    return table(["fast path beside plain path", "result"], rows)


def tokenizer(results: Results) -> list[str]:
    """Ways from pixels to codes with the codes that float32 does not give, then JPEG files."""
    differ = results.section("tokenizer", "differ").get("random weights", {}).get("differ", {})
    differ |= {f"timm, {how}": differ["timm bfloat16"] for how in ("eager", "compiled") if differ}
    rows = []
    for section, size in (("codes", ""), ("large", "large: ")):
        for name, row in results.section("tokenizer", section).items():
            if name not in TOKENIZERS:
                continue
            off = f"{differ[name]:.2%}" if name in differ and not size else ""
            speed = [number(row["images_per_s"]), percent(row["share_of_matmul"])]
            rows.append([size + name, str(row["batch"]), *speed, off, gib(row["peak_gib"])])
    head = [
        "pixels on the GPU to codes",
        "batch",
        "img/s",
        "of the product's rate",
        "codes differ",
        "peak memory",
    ]
    files = [[name, number(row["images_per_s"])] for name, row in results.section("jpeg", "jpeg").items()]
    processors = results.files["jpeg"].get("processors")
    title = f"JPEG files of 500 x 375 pixels, {processors} processors{results.on('jpeg')}"
    return [*table(head, rows), "", *table([title, "img/s"], files)]


def kmeans(results: Results) -> list[str]:
    """Assignments and whole iterations."""
    sizes = results.files["kmeans"].get("sizes", {})
    wrong = results.section("kmeans", "precision").get("codes", {}).get("differ", {})
    names = {
        "digit with second, 128x256": "the kernel alone",
        "digit float32": "assignment, exact",
        "flash-kmeans": "assignment, flash-kmeans",
        "pieces, compiled": "assignment, product and argmin in pieces, compiled",
        "pieces, eager": "the same, eager",
        "float32 products": "assignment, float32 products of everything",
    }
    rows = []
    for name, shown in names.items():
        row = results.section("kmeans", "assign").get(name)
        if row:
            off = f"{wrong[name]:.3%}" if name in wrong else ""
            rows.append([shown, *_timed(row), off])
    for name in ("digit float32", "flash-kmeans"):
        row = results.section("kmeans", "iteration").get(name)
        if row:
            rows.append([f"whole iteration, {name.removesuffix(' float32')}", *_timed(row), ""])
    head = ["what", "ms", "TFLOP/s", "of the product's rate", "peak memory", "codes differ"]
    return [
        f"{sizes.get('vectors', 0):,} vectors of {sizes.get('width')}, {sizes.get('codes'):,} codes"
        f"{results.on('kmeans')}.",
        "",
        *table(head, rows),
    ]


def _timed(row: Row) -> list[str]:
    share = percent(row.get("share_of_matmul"))
    return [number(row["ms"]), number(row["tflops"]), share, gib(row.get("peak_gib"))]


def training(results: Results) -> list[str]:
    """Every row, choices against the package's own, and the curves."""
    rows = results.files["train_h100"].get("rows", {})
    package = rows.get("screen, package")
    shown = []
    named = [
        (_named(name, row) + results.on(file), name, row)
        for file in ("train", "train_h100")
        for name, row in results.files[file].get("rows", {}).items()
    ]
    for shown_as, name, row in named:
        if "tokens_per_second" not in row:
            continue
        against = ""
        if name.startswith("screen") and package is not row and package:
            against = f"{row['update_ms'] / package['update_ms'] - 1:+.1%}"
        stall = f"{row['stall']:.1%}" if "stall" in row else ""
        shown.append(
            [
                shown_as,
                number(row["tokens_per_second"]),
                number(row["model_tflops"]),
                percent(row["mfu"]),
                stall,
                gib(row["peak_gib"]),
                against,
            ]
        )
    head = [
        "update",
        "tokens/s",
        "TFLOP/s",
        "MFU",
        "wait for data",
        "peak memory",
        "time against the package's",
    ]
    lines = [*table(head, shown), *_alone(rows)]
    curves = rows.get("curves")
    if curves:
        last, apart = curves["last"], curves["largest_difference"]["fast"]
        lines += [
            "",
            (
                f"Loss over {len(curves['curves']['plain'])} updates from equal starts, training kernels and"
                f" all other choices beside the plain path: {curves['first']:.3f} to {last['fast']:.4f} and"
                f" {last['plain']:.4f}; at most {apart:.3f} apart, and the mean of the last 50 by"
                f" {curves['mean_difference_of_the_last_50']['fast']:.1e}."
            ),
        ]
    return lines


def _alone(rows: Row) -> list[str]:
    """Rates of the training kernels by themselves."""
    words = [
        f"{name.removeprefix('kernel, ')} {row['forward_share_of_copy']:.0%} forward and"
        f" {row['backward_share_of_copy']:.0%} backward"
        for name, row in rows.items()
        if "forward_share_of_copy" in row
    ]
    return ["", f"The training kernels alone, of a copy's rate: {'; '.join(words)}."] if words else []


def _named(name: str, row: Row) -> str:
    """A row's name as people say it."""
    if name == "rival, large":
        return f"a plain compiled GPT of 732M, micro-batch {row.get('micro')}"
    kind, _, rest = name.partition(", ")
    kinds = {
        "base": "219M, with the training kernels, micro-batch",
        "large": "732M, with the training kernels, micro-batch",
        "safe": "219M, without the training kernels, micro-batch 256",
        "rival": "a plain compiled GPT of 219M, micro-batch",
        "screen": "a quarter of the 219M's layers:",
    }
    return f"{kinds.get(kind, kind)} {rest}".strip()


def convolutions(results: Results) -> list[str]:
    """The VQGAN, if it was run."""
    rows = []
    for section in ("decode", "encode"):
        for name, row in results.section("vqgan", section).items():
            if name not in CONVOLUTIONS:
                continue
            speed = [number(row["images_per_s"]), percent(row["share_of_matmul"]), gib(row.get("peak_gib"))]
            rows.append([f"{section}, {name}", str(row["batch"]), *speed])
    if not rows:
        return ["Never run on a GPU: there is no figure to show."]
    return table(["256 px", "batch", "img/s", "of the product's rate", "peak memory"], rows)


def cpu(results: Results) -> list[str]:
    """The bundled model."""
    sample: dict[str, Any] = results.files["sample"]
    rows = []
    for name, row in sample.get("seconds", {}).items():
        repeats = ", ".join(f"{each:.1f}" for each in row["all"])
        rows.append([name, f"{min(row['all']):.1f}", f"{row['median']:.1f}", repeats])
    head = ["renderer", "best, s", "median, s", "all repeats, s"]
    where = f"{sample.get('pictures')} pictures on {sample.get('cores')} cores ({sample.get('machine')})"
    return [f"{where}, whole processes, torch {sample.get('torch')}.", "", *table(head, rows)]


def missing(results: Results) -> list[str]:
    """What no run has measured yet."""
    asked = {
        "VQGAN, encode and decode (`bench/vqgan.py`)": results.section("vqgan", "decode"),
        "the whole chain, labels to pixels (`bench/sampler.py --parts chain`)": results.best(
            "whole chain, autoregressive, to pictures in memory"
        ),
        "LlamaGen's code beside the prior (`--parts rival --llamagen DIR`)": results.best(
            "LlamaGen's code, compiled"
        ),
        "this package's plain path beside the prior (`--parts rival`)": results.best("prior, plain path"),
        "the prior at several lengths (`--parts length`)": results.lengths("sampler"),
        "training of the 219M without the training kernels at full depth (`bench/train.py --parts safe`)": (
            results.training("safe")
        ),
        "the 732M beside a plain compiled GPT on one GPU (`bench/train.py --parts large rival_large`)": (
            results.training("large, 128") and results.training("rival, large")
        ),
        "JPEG files (`bench/tokenizer.py --only jpeg`)": results.section("jpeg", "jpeg"),
        "torch-fidelity beside FID of 50,000 images (`bench/fid.py`)": results.files["fid"]
        .get("results", {})
        .get("torch-fidelity"),
    }
    return [f"- {name}" for name, found in asked.items() if not found] or ["Nothing: all of it was run."]

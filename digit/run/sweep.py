"""`digit evaluate sweep`: distances over a grid of sampling settings, and the best of them (figure 6)."""

import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from digit.errors import DigitError
from digit.evaluation.images import Measured, compare, measure
from digit.evaluation.networks import Network, open_network
from digit.evaluation.pictures import Pictures, open_pictures, without_statistics
from digit.evaluation.protocols import FEWEST, OWN, check_number
from digit.evaluation.result import read_result, result, write_result
from digit.evaluation.sweep import PAPER, PROTOCOL, Key, Setting, best, key, named, sweep, varied
from digit.evaluation.sweep_plot import draw_heat_map, draw_pareto
from digit.files import make_folder, write_json_atomic
from digit.pipeline import DigitPipeline
from digit.progress import progress, say
from digit.run.device import choose_device
from digit.run.prefix import ids_of
from digit.run.sweep_grid import Grid, fixed, grid_of
from digit.run.table import print_table


def evaluate_sweep(
    reference: str,
    *,
    model: str | None = None,
    temperature: tuple[float, ...] = (),
    top_k: tuple[int, ...] = (),
    top_p: tuple[float, ...] = (),
    guidance: tuple[float, ...] = (),
    renderer: Literal["autoregressive", "masked"] | None = None,
    renderer_temperature: tuple[float, ...] = (),
    renderer_top_k: tuple[int, ...] = (),
    renderer_top_p: tuple[float, ...] = (),
    steps: tuple[int, ...] = (),
    noise: tuple[float, ...] = (),
    unconditional: bool = False,
    features: tuple[str, ...] = ("inception",),
    inception_weights: Path | None = None,
    recall: bool = False,
    num: int = FEWEST,
    few: bool = False,
    out: Path | None = None,
    batch: int = 64,
    device: str | None = None,
) -> dict[str, Any]:
    """Measure every combination of sampling settings: figure 6 of the paper, and the settings to keep.

    Each option takes one or more values; one left out is the model's own. The codes of a prior setting are
    drawn once for all renderer settings. Repeated with the same --out, cells that are done stay, and new
    values add theirs. The best is the lowest distance on the first of the features.

    Args:
        reference: real pictures: folder, zip, tar shards or npz.
        model: a folder, a bundled model's name, or owner/name on the hub; the bundled one if left out.
        temperature: of the prior; 0 takes the likeliest code.
        top_k: keep the k likeliest codes of the prior; 0 keeps all.
        top_p: keep the prior's likeliest codes up to this probability; 1 keeps all.
        guidance: classifier-free guidance; 1 is none.
        renderer: the autoregressive or the masked one.
        renderer_temperature: of the renderer.
        renderer_top_k: of the autoregressive renderer.
        renderer_top_p: of the autoregressive renderer.
        steps: of the masked renderer.
        noise: of the masked renderer: weight of the Gumbel noise on its confidence.
        unconditional: draw without a class; else all classes in turn.
        features: networks: inception, dinov2-l, timm:NAME, classifier:FOLDER, squeezenet:FILE.
        inception_weights: the file of FID's InceptionV3; downloaded if left out.
        recall: also precision and recall, for the Pareto plot where the network knows no classes.
        num: pictures of each cell; seeds count from 0.
        few: measure even fewer than 2,048 pictures, where distances are far too large.
        out: a folder for sweep.json and its plots, or a JSON file with the plots beside it.
        batch: pictures at once.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    if num < 2:
        raise DigitError(f"--num {num}: a distance takes at least two pictures a cell")
    check_number("a cell", num, OWN, few=few)
    where = choose_device(device)
    pipeline = DigitPipeline.from_pretrained(model, device=where)
    axes = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    axes |= {"renderer_temperature": renderer_temperature, "renderer_top_k": renderer_top_k}
    axes |= {"renderer_top_p": renderer_top_p, "steps": steps, "noise": noise}
    plan = grid_of(pipeline, axes, renderer=renderer, unconditional=unconditional)
    networks = [open_network(spec, inception_weights=inception_weights, device=where) for spec in features]
    metrics: Any = ["fd", "is", "precision_recall"] if recall else ["fd", "is"]
    pictures = without_statistics(
        open_pictures(reference, size=pipeline.vqgan.config.image_size, batch_size=batch)
    )
    check_number(reference, pictures.n or 0, OWN, few=few, reference=True)
    described_by = {
        "protocol": PROTOCOL,
        "counts": {"samples": num, "reference": pictures.n or 0},
        "features": [{"name": network.name, "sha256": network.sha256} for network in networks],
        "seed": 0,
        "settings": {
            "model": ids_of(pipeline),
            "reference": Path(reference).name,
            "metrics": metrics,
            **fixed(pipeline, plan),
        },
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
    }
    written = None if out is None else out if out.suffix == ".json" else out / "sweep.json"
    rows = [] if written is None else _rows_before(written, described_by)
    if written is not None:
        make_folder(written.parent)
    done = {key(row["setting"]) for row in rows}
    left = sum(plan.left(done).values())
    say(f"{left} cells to measure, {len(rows)} done before; {num} pictures each")
    if left:
        with progress("reference", pictures.n) as advance:
            real = measure(pictures, networks, device=where, keep=recall, progress=_differences(advance))
        for row in _cells(pipeline, plan, networks, real, metrics, num=num, done=done, batch=batch):
            rows.append(row)
            if written is not None:
                write_result(written, _result(rows, described_by))
    value = _result(rows, described_by)
    words = [
        "digit",
        "evaluate",
        "images",
        "--samples",
        "best",
        "--reference",
        reference,
        "--features",
        *features,
    ]
    again = shlex.join([*words, *(["--few"] if few else [])])
    first = best(rows, networks[0].metric("FD"))
    value["best"] = {
        **first,
        "command": plan.command(first["setting"], model=model, num=num, out="best") + " && " + again,
        "sampling": asdict(plan.sampling(first["setting"], pipeline.sampling)),
    }
    if written is not None:
        write_result(written, value)
        write_json_atomic(_beside(written, "sampling.json"), value["best"]["sampling"])
        _draw(rows, written, networks[0], f"{num} pictures a cell against {Path(reference).name}")
    _print(rows, value["best"], networks[0])
    return value


def _cells(
    pipeline: DigitPipeline,
    plan: Grid,
    networks: Sequence[Network],
    real: Sequence[Measured],
    metrics: Any,
    *,
    num: int,
    done: Collection[Key],
    batch: int,
) -> Iterator[dict[str, Any]]:
    """The rows of the cells that are not done; pictures go through the networks batch by batch."""
    length, left = pipeline.prior.config.length, plan.left(done).values()
    units = num * (len(left) * length + sum(left) * pipeline.work(1, prefix=length))
    labels = torch.arange(num) % plan.classes if plan.classes else None
    keep = "precision_recall" in metrics
    with progress("sweep", units) as advance:
        how: dict[str, Any] = {"batch_size": batch, "progress": advance}

        def draw(setting: Setting) -> Tensor:
            return pipeline.prior.sample(range(num), labels, plan.prior(setting), **how).cpu()

        def pictures(codes: Tensor, setting: Setting) -> Iterator[Tensor]:
            for start in range(0, num, batch):
                part = range(start, min(start + batch, num))
                own = None if labels is None else labels[start : part.stop].tolist()
                given = codes[start : part.stop]  # all codes of each: the prior draws none
                yield pipeline(own, seeds=part, prefix=given, **plan.options(setting), **how).pixels

        def score(codes: Tensor, setting: Setting) -> Iterator[tuple[str, float]]:
            cell = Pictures("a cell", pictures(codes, setting), num)
            found = measure(cell, networks, device=pipeline.device, keep=keep)
            for network, here, there in zip(networks, found, real, strict=True):
                yield from compare(network, here, there, metrics=metrics)

        yield from sweep(plan.priors, plan.renderers, draw=draw, score=score, done=done)


def _rows_before(written: Path, described_by: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of an earlier run; DigitError where it measured something else."""
    if not written.exists():
        return []
    before = read_result(written)
    same = before["measurement"] == "sweep" and all(
        before[name] == described_by[name] for name in ("counts", "features", "seed", "settings")
    )
    if not same:
        raise DigitError(
            f"{written} holds results of another model, reference, number or network: choose another --out"
        )
    return before["rows"]


def _result(rows: list[dict[str, Any]], described_by: dict[str, Any]) -> dict[str, Any]:
    return {**result("sweep", named(rows), **described_by), "rows": rows, "paper": PAPER}


def _differences(advance: Callable[[int], None]) -> Callable[[int, int | None], None]:
    """`measure` tells how many are done, a bar wants how many more."""
    before = 0

    def tell(now: int, _: int | None) -> None:
        nonlocal before
        advance(now - before)
        before = now

    return tell


def _beside(written: Path, name: str) -> Path:
    return written.with_name(f"{written.stem}-{name}")


def _draw(rows: list[dict[str, Any]], written: Path, network: Any, title: str) -> None:
    distance = network.metric("FD")
    qualities = [network.metric(kind) for kind in ("IS", "recall")]
    qualities = [name for name in qualities if name in rows[0]["values"]]
    draw_heat_map(rows, distance, _beside(written, "fd.png"), lower_is_better=True, title=title)
    for name, metric in zip(("is.png", "recall.png"), qualities, strict=False):
        draw_heat_map(rows, metric, _beside(written, name), lower_is_better=False, title=title)
    if qualities:
        draw_pareto(rows, distance, qualities[0], _beside(written, "pareto.png"), title=title)


def _print(rows: list[dict[str, Any]], first: dict[str, Any], network: Any) -> None:
    axes, order = varied(rows), sorted(rows, key=lambda row: row["values"][network.metric("FD")])
    names = [network.metric(kind) for kind in ("FD", "IS", "precision", "recall")]
    names = [name for name in names if name in rows[0]["values"]]
    cells = {
        str(1 + place): [
            *(f"{row['setting'][axis]:g}" for axis in axes),
            *(row["values"][name] for name in names),
        ]
        for place, row in enumerate(order)
    }
    print_table("all settings, the lowest distance first", [*axes, *names], cells)
    say(f"paper, {PAPER}")
    say(f"best: {first['command']}")

"""`digit evaluate sweep`: distances over a grid of sampling settings, and the best of them (figure 6)."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from digit.bounds import Batch, Count, Guidance, Several, Temperature, TopP, Weight, Whole
from digit.calls import checked
from digit.printing import put
from digit.run.options import Device, File, Model, Network, Pictures, Positional
from digit.run.table import print_table


@checked
def evaluate_sweep(
    model: Positional[Model | None] = None,
    *,
    reference: Pictures,
    temperature: tuple[Temperature, ...] = (),
    top_k: tuple[Whole, ...] = (),
    top_p: tuple[TopP, ...] = (),
    guidance: tuple[Guidance, ...] = (),
    renderer: Literal["flow", "autoregressive", "masked"] | None = None,
    renderer_temperature: tuple[Temperature, ...] = (),
    renderer_top_k: tuple[Whole, ...] = (),
    renderer_top_p: tuple[TopP, ...] = (),
    renderer_guidance: tuple[Guidance, ...] = (),
    passes: tuple[Count, ...] = (),
    noise: tuple[Weight, ...] = (),
    unconditional: bool = False,
    features: tuple[Network, ...] = ("inception",),
    inception_weights: File | None = None,
    recall: bool = False,
    num: Several = 2048,
    few: bool = False,
    out: Path | None = None,
    batch: Batch = 64,
    device: Device | None = None,
) -> dict[str, Any]:
    """Measure every combination of sampling settings: figure 6 of the paper, and the settings to keep.

    Each option takes one or more values; one left out is the model's own. The codes of a prior setting are
    drawn once for all renderer settings. Repeated with the same --out, cells that are done stay, and new
    values add theirs. The best is the lowest distance on the first of the features.

    Example: digit evaluate sweep runs/model --reference photos/ --top-k 0 200 --top-p 0.8 1.0 --out sweep

    Args:
        model: a folder, a bundled model's name, or owner/name on the hub; the bundled one if left out.
        reference: real pictures: folder, zip, tar shards or npz.
        temperature: of the prior, from 0, which takes the likeliest code.
        top_k: keep the k likeliest codes of the prior; 0 keeps all.
        top_p: keep the prior's likeliest codes up to this probability, in (0, 1].
        guidance: classifier-free guidance; 1 is none.
        renderer: which one draws; the first of these that the model has if left out.
        renderer_temperature: of the autoregressive or the masked renderer.
        renderer_top_k: of the autoregressive renderer; 0 keeps all.
        renderer_top_p: of the autoregressive renderer, in (0, 1].
        renderer_guidance: of the flow renderer, or of another that knows classes; 1 is none.
        passes: of the flow renderer, or of the masked renderer over all positions.
        noise: of the masked renderer: weight of the Gumbel noise on its confidence.
        unconditional: draw without a class; else each picture's is its seed modulo the number of classes.
        features: networks: inception, dinov2-l, timm:NAME, classifier:FOLDER, squeezenet:FILE.
        inception_weights: file of FID's InceptionV3; fetched if left out.
        recall: also precision and recall, for the Pareto plot where the network knows no classes.
        num: pictures of each cell; seeds count from 0.
        few: measure even fewer than 2,048 pictures, where distances are far too large.
        out: folder for sweep.json and its plots, or a JSON file with them beside it; not kept if left out.
        batch: pictures at once.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    from dataclasses import asdict

    from digit.data.identity import of_set
    from digit.evaluation.pictures import open_pictures, without_statistics
    from digit.evaluation.protocols import OWN, check_number
    from digit.evaluation.sweep import best
    from digit.files import write_json_atomic
    from digit.pipeline import DigitPipeline
    from digit.run.device import choose_device
    from digit.run.evaluate import measurement
    from digit.run.evaluate.sweep_grid import Cells, grid_of

    check_number("a cell", num, OWN, few=few)
    where = choose_device(device, float64=True)
    pipeline = DigitPipeline.from_pretrained(model, device=where)
    axes = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    axes |= {"renderer_temperature": renderer_temperature, "renderer_top_k": renderer_top_k}
    axes |= {"renderer_top_p": renderer_top_p, "renderer_guidance": renderer_guidance}
    axes |= {"steps": passes, "noise": noise}
    plan = grid_of(pipeline, axes, renderer=renderer, unconditional=unconditional)
    networks = measurement.open_networks(features, inception_weights, where)
    side = pipeline.image_size
    source = measurement.generated(reference)
    pictures = without_statistics(open_pictures(source, size=side, batch_size=batch))
    check_number(reference, pictures.n or 0, OWN, few=few, reference=True)
    written = measurement.result_file(out, "sweep")
    how: dict[str, Any] = {"called": Path(reference).name, "recall": recall, "num": num, "written": written}
    how |= {"content": None if out is None else of_set(reference), "read_as": measurement.read_as(source)}
    cells = Cells(pipeline, plan, networks, pictures, **how)
    cells.measure(batch=batch)
    value, network = cells.value(), networks[0]
    title = f"{num} pictures per setting against {Path(reference).name}"
    first = best(cells.rows, network.metric("FD"))
    again = ["digit", "evaluate", "images", "--samples", "best", "--reference", reference, "--features"]
    again += [*features, *(["--few"] if few else [])]
    draw = plan.command(first["setting"], model=model, num=num, out="best")
    sampling = asdict(plan.sampling(first["setting"], pipeline.sampling))
    value["best"] = {**first, "command": f"{draw} && {shlex.join(again)}", "sampling": sampling}
    _print(cells.rows, network, f"{title}, the lowest distance first")
    put(f"the best: {value['best']['command']}")
    measurement.caution(value, num)
    files: list[Path] = []
    if written is not None:
        files = [written.with_name(f"{written.stem}-sampling.json")]
        write_json_atomic(files[0], sampling)
        files += _draw(cells.rows, network, written, title)
    measurement.keep(written, value, *files, also=", plots and the best settings")
    return value


def _draw(rows: Sequence[Any], network: Any, written: Path, title: str) -> Iterator[Path]:
    """A heat map per metric, and the Pareto plot where there is a score; the files."""
    from digit.evaluation.plots import draw_heat_map, draw_pareto

    kinds = {"fd": "FD", "is": "IS", "recall": "recall"}
    metrics = {name: network.metric(kind) for name, kind in kinds.items()}
    metrics = {name: metric for name, metric in metrics.items() if metric in rows[0]["values"]}
    for name, metric in metrics.items():
        draw_heat_map(rows, metric, path := written.with_name(f"{written.stem}-{name}.png"), title=title)
        yield path
    score = metrics.get("is", metrics.get("recall"))
    if score is not None:
        path = written.with_name(f"{written.stem}-pareto.png")
        draw_pareto(rows, metrics["fd"], score, path, title=title)
        yield path


def _print(rows: Sequence[Any], network: Any, title: str) -> None:
    """A row per cell, the lowest distance first."""
    from digit.evaluation.result import in_words
    from digit.evaluation.sweep import varied

    axes, order = varied(rows), sorted(rows, key=lambda row: row["values"][network.metric("FD")])
    names = [network.metric(kind) for kind in ("FD", "IS", "precision", "recall")]
    names = [name for name in names if name in rows[0]["values"]]
    cells = {
        f"{place}": [*(f"{row['setting'][a]:g}" for a in axes), *(row["values"][name] for name in names)]
        for place, row in enumerate(order, start=1)
    }
    print_table(title, [*axes, *in_words(names).values()], cells)

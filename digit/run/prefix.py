"""`digit evaluate prefix`: distance against the length of a real prefix, models side by side (figure 4b)."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from digit.data.images import ImageSource, open_images
from digit.data.loader import stream
from digit.errors import DigitError
from digit.evaluation.images import measure
from digit.evaluation.networks import open_network
from digit.evaluation.pictures import Pictures, open_pictures, without_statistics
from digit.evaluation.prefix import (
    PAPER,
    PROTOCOL,
    Completer,
    Point,
    as_rows,
    check_prefixes,
    named,
    of_rows,
    prefix_distances,
)
from digit.evaluation.prefix_plot import draw_prefix
from digit.evaluation.protocols import OWN, check_number
from digit.evaluation.result import read_result, result, write_result
from digit.files import make_folder
from digit.nn.sampling import SamplerConfig
from digit.pipeline import DigitPipeline
from digit.progress import progress, say
from digit.run.complete import folder_labels
from digit.run.device import choose_device
from digit.run.table import print_table
from digit.weights.artifact import artifact_of
from digit.weights.model_folder import PARTS


def evaluate_prefix(
    models: tuple[str, ...],
    images: str,
    prefix: tuple[int, ...],
    *,
    features: tuple[str, ...] = ("inception",),
    inception_weights: Path | None = None,
    reference: str | None = None,
    under: str | None = None,
    num: int | None = None,
    few: bool = False,
    unconditional: bool = False,
    renderer: Literal["autoregressive", "masked"] | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float | None = None,
    out: Path | None = None,
    batch: int = 64,
    device: str | None = None,
) -> dict[str, Any]:
    """Give each prior the first codes of real pictures, and measure what it makes of them: figure 4b.

    A prior that needs a shorter prefix for the same distance models its codes better. Classes are those of
    the pictures' folders, where a prior knows them. Settings left out are each model's own. Repeated with the
    same --out, points that are done stay, and other prefixes or models add theirs.

    Args:
        models: folders or bundled models, side by side; one without a renderer is the VQ-only baseline.
        images: pictures whose codes are given: folder, zip, or tar shards.
        prefix: how many codes are given, one or more numbers; 0 is plain sampling, all a reconstruction.
        features: networks: inception, dinov2-l, timm:NAME, classifier:FOLDER, squeezenet:FILE.
        inception_weights: the file of FID's InceptionV3; downloaded if left out.
        reference: other pictures to measure against; the same ones if left out, as in the paper.
        under: only pictures below this folder of `images`, such as `test`.
        num: how many pictures, evenly spread; all if left out.
        few: measure even fewer than 2,048 pictures, where distances are far too large.
        unconditional: complete without classes.
        renderer: the autoregressive or the masked one.
        temperature: of the prior; 0 takes the likeliest code.
        top_k: keep the k likeliest codes of the prior; 0 keeps all.
        top_p: keep the prior's likeliest codes up to this probability; 1 keeps all.
        guidance: classifier-free guidance, for models that complete with classes; 1 is none.
        out: a folder for prefix.json and prefix.png, or a JSON file with its plot beside it.
        batch: pictures at once.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    where = choose_device(device)
    source = open_images(images, under=under)
    if num is not None and num < 1:
        raise DigitError(f"--num {num}: complete at least one picture")
    if num is not None and num < len(source):
        source = source.select(np.linspace(0, len(source) - 1, num).astype(np.int64))
    check_number(images, len(source), OWN, few=few)
    pipelines = open_pipelines(models, where)
    lengths = [pipeline.prior.config.length for pipeline in pipelines.values()]
    check_prefixes(prefix, lengths)
    side = _side(pipelines)
    networks = [open_network(spec, inception_weights=inception_weights, device=where) for spec in features]
    written = None if out is None else out if out.suffix == ".json" else out / "prefix.json"
    if written is not None:
        make_folder(written.parent)
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    settings = {name: number for name, number in settings.items() if number is not None}
    SamplerConfig(**settings)  # wrong ones are refused here, not after the encoding
    labels = {
        name: None if unconditional else folder_labels(pipeline, source)
        for name, pipeline in pipelines.items()
    }
    if guidance not in (None, 1.0) and not any(labels.values()):
        raise DigitError(
            f"--guidance {guidance} needs pictures in folders of a known class: give such, or leave it out"
        )

    described_by = {
        "protocol": PROTOCOL,
        "features": [{"name": network.name, "sha256": network.sha256} for network in networks],
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
    }
    asked = {
        "images": Path(images).name,
        "under": under,
        "fingerprint": source.fingerprint,
        "reference": None if reference is None else Path(reference).name,
        "asked": {**settings, "guidance": guidance, "renderer": renderer, "unconditional": unconditional},
    }
    known = {name: ids_of(pipe) for name, pipe in pipelines.items()}
    own = {name: asdict(pipe.sampling) for name, pipe in pipelines.items()}
    before = None
    if written is not None:
        before = _before(written, described_by, asked, {"models": known, "sampling": own}, len(source))
    points = of_rows(before["points"]) if before else []
    used: dict[str, Any] = dict(before["settings"]["drawn"]) if before else {}
    if before:
        known, own = (
            {**before["settings"]["models"], **known},
            {**before["settings"].get("sampling", {}), **own},
        )
    counts = {"samples": len(source), "reference": len(source)}

    def value() -> dict[str, Any]:
        settings_of = {**asked, "models": known, "sampling": own, "drawn": used}
        told = {**described_by, "counts": counts, "settings": settings_of}
        ordered = sorted(points, key=lambda point: (list(known).index(point.model), point.prefix))
        return {**result("prefix", named(ordered), **told), "points": as_rows(ordered), "paper": PAPER}

    done = {(point.model, point.prefix) for point in points}
    left = {
        name: [n for n in set(prefix) if n <= pipe.prior.config.length and (name, n) not in done]
        for name, pipe in pipelines.items()
    }
    if before:
        say(f"{len(points)} points were measured before, {sum(map(len, left.values()))} are left")
        counts = before["counts"]
    if any(left.values()):
        with progress("encode", len(source)) as advance:
            codes, real = _encode(source, pipelines, side, batch, advance, networks, where)
        if reference is not None:
            other = without_statistics(open_pictures(reference, size=side, batch_size=batch))
            real = measure(other, networks, device=where)
            check_number(reference, other.n or 0, OWN, few=few, reference=True)
            counts = {"samples": len(source), "reference": other.n or 0}
        units = sum(
            len(source) * pipe.work(1, prefix=n) for name, pipe in pipelines.items() for n in left[name]
        )
        with progress("complete", units) as advance:
            completers = []
            for name, pipeline in pipelines.items():
                how = {**settings, "batch_size": batch, "progress": advance}
                # A baseline without classes or a renderer may stand beside a model that has both.
                how["guidance"] = guidance if labels[name] else None
                how["renderer"] = renderer if pipeline.renderers else None
                complete = _completing(pipeline, labels[name], how, used, name)
                completers.append(Completer(name, codes[name], complete))
            for point in prefix_distances(
                completers, prefix, networks, real, batch_size=batch, device=str(where), done=done
            ):
                points.append(point)
                if written is not None:
                    write_result(written, value())
    found = value()
    _print(of_rows(found["points"]), len(source))
    if written is not None:
        write_result(written, found)
        title = f"{len(source)} pictures of {Path(images).name}, first codes given, the prior draws the rest"
        draw_prefix(of_rows(found["points"]), written.with_suffix(".png"), title=title)
    return found


def _before(
    written: Path,
    described_by: dict[str, Any],
    asked: dict[str, Any],
    of_models: dict[str, dict[str, Any]],
    count: int,
) -> dict[str, Any] | None:
    """The result of an earlier call with the same --out; DigitError where it measured something else."""
    if not written.exists():
        return None
    before = read_result(written)
    same = (
        before["measurement"] == "prefix"
        and before["features"] == described_by["features"]
        and before["counts"]["samples"] == count
        and all(before["settings"].get(name) == given for name, given in asked.items())
        and all(
            before["settings"].get(kind, {}).get(name, found) == found
            for kind, each in of_models.items()
            for name, found in each.items()
        )
    )
    if not same:
        raise DigitError(
            f"{written} holds results of other models, pictures, settings or networks: choose another --out"
        )
    return before


def open_pipelines(models: Sequence[str], where: torch.device) -> dict[str, DigitPipeline]:
    """Models by the names of their folders, or by what was given where two folders have one name."""
    if not models or len(set(models)) != len(models):
        raise DigitError("--models: give at least one model, and each once")
    names = [Path(model).name for model in models]
    if len(set(names)) != len(names):
        names = list(models)
    return {
        name: DigitPipeline.from_pretrained(model, device=where)
        for name, model in zip(names, models, strict=True)
    }


def ids_of(pipeline: DigitPipeline) -> dict[str, str]:
    """The id of each of a loaded model's stages."""
    stages = {name: getattr(pipeline, name) for name in PARTS}
    return {name: artifact_of(stage)["id"] for name, stage in stages.items() if stage is not None}


def _side(pipelines: dict[str, DigitPipeline]) -> int:
    sides = {name: pipeline.vqgan.config.image_size for name, pipeline in pipelines.items()}
    if len(set(sides.values())) > 1:
        raise DigitError(f"the models draw at unequal sizes ({sides}): compare models of one size")
    return next(iter(sides.values()))


def _encode(
    source: ImageSource,
    pipelines: dict[str, DigitPipeline],
    side: int,
    batch: int,
    advance: Any,
    networks: Any,
    where: torch.device,
) -> tuple[dict[str, Tensor], list[Any]]:
    """Every model's codes and the networks' statistics of the pictures, in one pass over the files."""
    parts: dict[str, list[Tensor]] = {name: [] for name in pipelines}

    def pictures() -> Any:
        for _, views in stream(source, side, batch_size=batch, strict=True):
            pixels = views[:, 0]
            for name, pipeline in pipelines.items():
                parts[name].append(pipeline.encode(pixels.float() / 255).to(torch.int32))
            yield pixels
            advance(len(pixels))

    real = measure(Pictures(source.path.name, pictures(), len(source)), networks, device=where)
    return {name: torch.cat(rows) for name, rows in parts.items()}, real


def _completing(
    pipeline: DigitPipeline, labels: list[int] | None, how: dict[str, Any], used: dict[str, Any], name: str
) -> Any:
    def complete(prefix: Tensor, numbers: Sequence[int]) -> Tensor:
        own = None if labels is None else [labels[i] for i in numbers]
        drawn = pipeline(own, seeds=list(numbers), prefix=prefix.long(), **how)
        used[name] = {**drawn.settings, "classes": own is not None}
        used[name].pop("prefix")
        return drawn.pixels

    return complete


def _print(points: Sequence[Point], count: int) -> None:
    metrics = list(
        dict.fromkeys(name for point in points for name in point.values if "deviation" not in name)
    )
    rows = {
        f"{p.model}, {p.prefix} of {p.length}": [f"{p.share:.0%}", *(p.values.get(m) for m in metrics)]
        for p in points
    }
    print_table(f"{count} pictures completed from their first codes", ["share", *metrics], rows)
    say(f"paper, {PAPER}")

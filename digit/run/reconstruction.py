"""`digit evaluate reconstruction`: what the stages after the prior lose (table 3, last rows)."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from digit.data.images import open_images
from digit.data.loader import Report, stream
from digit.errors import DigitError
from digit.evaluation.frechet import Moments, frechet_distance
from digit.evaluation.networks import Network, open_network
from digit.evaluation.result import result, write_result
from digit.evaluation.scores import inception_score
from digit.files import atomic_path, make_folder
from digit.nn.sampling import SamplerConfig
from digit.pipeline import DigitPipeline, to_uint8
from digit.progress import progress, say
from digit.run.device import autocast, choose_device
from digit.run.sample import grid
from digit.run.table import print_table

DIGIT, VQ = "DiGIT + VQ", "VQ only"
PAPER = {f"paper, {DIGIT}": (1.92, 184.40), f"paper, {VQ}": (1.67, 175.56)}  # FID, IS
PROTOCOL = (
    "the same pictures on both sides: VQ only = VQGAN decoder of its own codes of a picture; DiGIT + VQ ="
    " discriminative codes of the picture, VQ codes drawn by the renderer, VQGAN decoder; no prior, so"
    " nothing of the codes is generated; PSNR in dB over all pixels of all pictures, after rounding to bytes"
)
CONDITIONS = "the paper's rows: FID and IS, 50,000 ImageNet validation pictures, 256 px, InceptionV3"
SHOWN = 16  # pictures beside their reconstructions


@torch.inference_mode()
def evaluate_reconstruction(
    model: str,
    images: str,
    *,
    features: tuple[str, ...] = ("inception",),
    inception_weights: Path | None = None,
    renderer: Literal["autoregressive", "masked"] | None = None,
    renderer_temperature: float | None = None,
    renderer_top_k: int | None = None,
    renderer_top_p: float | None = None,
    under: str | None = None,
    limit: int | None = None,
    few: bool = False,
    out: Path | None = None,
    batch: int = 64,
    threads: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Distance and PSNR of real pictures that went through the model's tokenizers and back: its floor.

    What a perfect prior would reach with this renderer and VQGAN. Settings left out are the model's own.

    Args:
        model: folder, bundled model or owner/name on the hub, with the tokenizer inside.
        images: real pictures: folder, zip, or tar shards (shards-{000..127}.tar).
        features: networks: inception, classifier:FOLDER, squeezenet:FILE, timm:NAME.
        inception_weights: a file of FID's network; fetched if left out.
        renderer: the autoregressive or the masked one.
        renderer_temperature: of the renderer.
        renderer_top_k: of the autoregressive renderer.
        renderer_top_p: of the autoregressive renderer.
        under: only pictures below this folder of `images`, such as `val`.
        limit: pictures at most, evenly spread over the set.
        few: measure even fewer than 2,048 pictures, where distances are far too large.
        out: a JSON file for the result; pictures beside their reconstructions go next to it.
        batch: pictures at once.
        threads: that decode pictures.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    where = choose_device(device)
    pipeline = DigitPipeline.from_pretrained(model, device=where)
    source = open_images(images, under=under)
    if limit is not None and limit < len(source):
        source = source.select(np.linspace(0, len(source) - 1, limit).astype(np.int64))
    if len(source) < 2048 and not few:
        raise DigitError(
            f"{images} has {len(source)} pictures, too few for a distance: give 2048, or pass --few"
        )
    if pipeline.tokenizer is None and pipeline.renderers:
        say(f"{model} holds no tokenizer, so there is no row {DIGIT}: compose it with --tokenizer")
    networks = [open_network(spec, inception_weights=inception_weights, device=where) for spec in features]
    if out is not None:
        make_folder(out.parent)
    size = pipeline.vqgan.config.image_size
    settings = _settings(pipeline, renderer, renderer_temperature, renderer_top_k, renderer_top_p)
    back = _ways_back(pipeline, settings, where)
    sums = {name: [_Sums() for _ in networks] for name in ("real pictures", *back)}
    errors, shown = dict.fromkeys(back, 0.0), {}
    report, count = Report(), 0
    with progress("reconstruct", len(source)) as advance:
        for index, stored in stream(source, size, batch_size=batch, threads=threads, report=report):
            real = stored[:, 0].to(where)
            seeds, pixels = list(range(count, count + len(real))), real.float() / 255
            given = {"real pictures": real} | {name: way(pixels, seeds) for name, way in back.items()}
            for name, reconstructed in given.items():
                for network, running in zip(networks, sums[name], strict=True):
                    running.add(*network.outputs(reconstructed)[:2])
            for name in back:
                errors[name] += float((given[name].double() - real.double()).square().sum()) / 255**2
            shown = shown or {name: part[:SHOWN].cpu() for name, part in given.items()}
            count += len(real)
            advance(len(index))
    if report.skipped:
        say(report.summary())
    rows: dict[str, dict[str, float]] = {}
    for name, row in sums.items():
        rows[name] = {}
        if name in back:
            rows[name]["PSNR"] = -10 * math.log10(max(errors[name] / (count * 3 * size**2), 1e-12))
        for network, here, real in zip(networks, row, sums["real pictures"], strict=True):
            if name in back:
                rows[name][network.metric("FD")] = frechet_distance(here.moments, real.moments)
            if here.probabilities:
                drawn = torch.cat(here.probabilities)
                score = inception_score(drawn, splits=min(10, len(drawn)))
                rows[name][network.metric("IS")] = score[0]
    _print(rows, networks)
    value = result(
        "reconstruction",
        [(f"{name}: {what}", x) for name, row in rows.items() for what, x in row.items()],
        protocol=PROTOCOL,
        counts={"pictures": count},
        features=[{"name": network.name, "sha256": network.sha256} for network in networks],
        seed=0,
        settings={"model": Path(model).name, "images": Path(images).name, "renderer": settings, "size": size},
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
    )
    if out is not None:
        write_result(out, value)
        with atomic_path(out.with_suffix(".png")) as temporary:
            grid(torch.cat(list(shown.values())), columns=len(shown["real pictures"])).save(temporary, "png")
    return value


def _settings(pipeline: DigitPipeline, renderer: str | None, *given: Any) -> dict[str, Any]:
    """The renderer's name and how it draws: what was given, else the model's own."""
    if not pipeline.renderers:
        return {}
    chosen = pipeline.renderer_called(renderer)
    own = pipeline.sampling.masked if chosen == "masked" else pipeline.sampling.renderer
    names = ("temperature", "top_k", "top_p")
    values = {n: getattr(own, n) if x is None else x for n, x in zip(names, given, strict=True)}
    return {"name": chosen, **values}


def _ways_back(
    pipeline: DigitPipeline, settings: dict[str, Any], where: torch.device
) -> dict[str, Callable[[Tensor, list[int]], Tensor]]:
    """For each row, pixels in [0, 1] and seeds -> reconstructed bytes."""
    vqgan, tokenizer = pipeline.vqgan, pipeline.tokenizer

    def vq_only(pixels: Tensor, seeds: list[int]) -> Tensor:
        return to_uint8(vqgan.decode(vqgan.encode(pixels)))

    ways: dict[str, Callable[[Tensor, list[int]], Tensor]] = {VQ: vq_only}
    if tokenizer is None or not settings:
        return ways
    config = SamplerConfig(**{name: value for name, value in settings.items() if name != "name"})

    def digit(pixels: Tensor, seeds: list[int]) -> Tensor:
        with autocast(where):
            codes = tokenizer.encode(pixels)
        if settings["name"] == "masked":
            assert pipeline.renderer_masked is not None
            how = {"steps": pipeline.sampling.masked_steps, "noise": pipeline.sampling.masked_noise}
            drawn = pipeline.renderer_masked.sample(codes, seeds, config, batch_size=len(seeds), **how)
        else:
            assert pipeline.renderer is not None
            drawn = pipeline.renderer.sample(codes, seeds, config, batch_size=len(seeds))
        return to_uint8(vqgan.decode(drawn))

    return {DIGIT: digit, **ways}


class _Sums:
    """What one network says of one set: moments of features, and class probabilities where it has any."""

    def __init__(self) -> None:
        self._moments: Moments | None = None
        self.probabilities: list[Tensor] = []

    def add(self, features: Tensor, probabilities: Tensor | None) -> None:
        if self._moments is None:
            self._moments = Moments(features.shape[1], device=features.device)
        self._moments.update(features)
        if probabilities is not None:
            self.probabilities.append(probabilities.cpu())

    @property
    def moments(self) -> Moments:
        assert self._moments is not None, "no picture was read"
        return self._moments


def _print(rows: dict[str, Any], networks: list[Network]) -> None:
    columns = ["PSNR", *(network.metric(kind) for network in networks for kind in ("FD", "IS"))]
    cells: dict[str, list[Any]] = {name: [row.get(what) for what in columns] for name, row in rows.items()}
    published = {name: [None, *numbers, *[None] * (2 * len(networks) - 2)] for name, numbers in PAPER.items()}
    print_table(f"reconstruction ({CONDITIONS})", columns, {**cells, **published}, dim=published)

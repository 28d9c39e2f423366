"""Real pictures -> codes -> pictures: the ways back that a model has, and what each of them loses."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from digit.evaluation.networks import Network
from digit.evaluation.scores import Moments, frechet_distance, inception_score
from digit.nn.sampling import SamplerConfig
from digit.pipeline import DigitPipeline, to_uint8
from digit.run.device import autocast

REAL, DIGIT, VQ = "real pictures", "DiGIT + VQ", "VQ only"
PAPER = {f"paper, {DIGIT}": (1.92, 184.40), f"paper, {VQ}": (1.67, 175.56)}  # FID, IS
PROTOCOL = (
    "the same pictures on both sides: VQ only = VQGAN decoder of its own codes of a picture; DiGIT + VQ ="
    " discriminative codes of the picture, VQ codes drawn by the renderer, VQGAN decoder; no prior, so"
    " nothing of the codes is generated; PSNR in dB over all pixels of all pictures, after rounding to bytes"
)
CONDITIONS = "the paper's rows: FID and IS, 50,000 ImageNet validation pictures, 256 px, InceptionV3"
SHOWN = 16  # pictures beside their reconstructions

Way = Callable[[Tensor, list[int]], Tensor]  # pixels in [0, 1] and seeds -> bytes


def renderer_settings(
    pipeline: DigitPipeline, renderer: str | None, **given: float | int | None
) -> dict[str, Any]:
    """The renderer's name and how it draws: what was given, else the model's own; {} without a renderer."""
    if not pipeline.renderers:
        return {}
    chosen = pipeline.renderer_called(renderer)
    own = pipeline.sampling.masked if chosen == "masked" else pipeline.sampling.renderer
    return {"name": chosen, **{n: getattr(own, n) if x is None else x for n, x in given.items()}}


def ways_back(pipeline: DigitPipeline, settings: Mapping[str, Any], device: torch.device) -> dict[str, Way]:
    """How pictures come back, by the name of the row: through the renderer, if there is one, and VQ alone."""
    vqgan, tokenizer = pipeline.vqgan, pipeline.tokenizer

    def vq_only(pixels: Tensor, seeds: list[int]) -> Tensor:
        return to_uint8(vqgan.decode(vqgan.encode(pixels)))

    ways: dict[str, Way] = {VQ: vq_only}
    if tokenizer is None or not settings:
        return ways
    config = SamplerConfig(**{name: value for name, value in settings.items() if name != "name"})

    def digit(pixels: Tensor, seeds: list[int]) -> Tensor:
        with autocast(device):
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


@torch.inference_mode()
def reconstruct(
    pictures: Iterable[Tensor], ways: Mapping[str, Way], networks: Sequence[Network]
) -> tuple[dict[str, dict[str, float]], dict[str, Tensor], int]:
    """Send batches of pixels in [0, 1] every way back and measure what comes; picture i has seed i.

    Returns:
        By row, the real pictures first, its values by name; the first pictures of each row as bytes; and how
        many pictures there were.
    """
    sums = {name: [_Sums() for _ in networks] for name in (REAL, *ways)}
    errors, shown, count, values = dict.fromkeys(ways, 0.0), {}, 0, 0
    for pixels in pictures:
        seeds, real = list(range(count, count + len(pixels))), to_uint8(pixels)
        given = {REAL: real} | {name: way(pixels, seeds) for name, way in ways.items()}
        for name, again in given.items():
            for network, running in zip(networks, sums[name], strict=True):
                running.add(*network.outputs(again)[:2])
        for name in ways:
            errors[name] += float((given[name].double() - real.double()).square().sum()) / 255**2
        shown = shown or {name: part[:SHOWN].cpu() for name, part in given.items()}
        count, values = count + len(real), values + real.numel()
    rows: dict[str, dict[str, float]] = {}
    for name, row in sums.items():
        rows[name] = {}
        if name in ways:
            rows[name]["PSNR"] = -10 * math.log10(max(errors[name] / values, 1e-12))
        for network, here, real in zip(networks, row, sums[REAL], strict=True):
            if name in ways:
                rows[name][network.metric("FD")] = frechet_distance(here.moments, real.moments)
            if here.probabilities:
                drawn = torch.cat(here.probabilities)
                rows[name][network.metric("IS")] = inception_score(drawn, splits=min(10, len(drawn)))[0]
    return rows, shown, count


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

"""A prior and renderer -> distance of what they draw, probe of the prior, its loss on unseen pictures."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ablation.pictures import Sets
from ablation.plan import Scale
from ablation.tokens import probed
from torch import Tensor

from digit.evaluation.networks import Network, open_network
from digit.evaluation.probe import pooled_states
from digit.evaluation.scores import Moments, frechet_distance, inception_score
from digit.files import atomic_file
from digit.nn.sampling import SamplerConfig
from digit.prior import Prior
from digit.renderer_masked import MaskedRenderer
from digit.rendering import to_uint8
from digit.run.grid import grid


class Judge:
    """The classifier trained in the same run, and the test pictures as it sees them."""

    def __init__(self, out: Path, sets: Sets) -> None:
        """Reads out/classifier/artifact."""
        self.network: Network = open_network(
            f"classifier:{out / 'classifier' / 'artifact'}", device=sets.test.device
        )
        self.reference = self._statistics(sets.test)[0]

    def _statistics(self, pixels: Tensor) -> tuple[Moments, Tensor]:
        rows = [self.network.outputs(part)[:2] for part in pixels.split(1000)]
        moments = Moments(rows[0][0].shape[1], device=pixels.device)
        for features, _ in rows:
            moments.update(features)
        return moments, torch.cat([guess for _, guess in rows if guess is not None])

    def __call__(self, pixels: Tensor) -> dict[str, float]:
        """Distance to the test pictures, and inception score, of uint8 pixels."""
        moments, guesses = self._statistics(pixels)
        score = inception_score(guesses, splits=min(10, len(guesses)))[0]
        return {"FD": frechet_distance(moments, self.reference), "IS": score}


@torch.no_grad()
def prior_measures(
    prior: Prior, codes: Tensor, test_codes: Tensor, sets: Sets, scale: Scale
) -> dict[str, Any]:
    """Bits a code on the test pictures, without label smoothing, and the probes of all layers."""
    half = {"device_type": codes.device.type, "dtype": torch.bfloat16, "enabled": codes.is_cuda}
    total = torch.zeros((), device=codes.device, dtype=torch.float64)
    with torch.autocast(**half):
        for part in test_codes.split(500):
            logits = prior.logits(part.long()).float()
            total += F.cross_entropy(logits.flatten(0, 1), part.long().flatten(), reduction="sum")
        pooled = [
            torch.cat([pooled_states(prior, part.long()).half() for part in views.split(1000)])
            for views in (codes[:, 0], test_codes)
        ]
    with torch.enable_grad():
        found = probed(pooled[0], pooled[1], sets, scale)
    return {
        "prior_bits": float(total) / test_codes.numel() / math.log(2),
        "probe_prior": found["top-1 best layer"],
        "probe_layer": found["best layer"],
        "probe_layers": [share for name, share in found.items() if name.startswith("top-1 layer ")],
    }


def rendered(
    codes: Tensor, seeds: list[int], renderer: MaskedRenderer | None, sets: Sets, top_p: float
) -> Tensor:
    """Pixels of codes; without a renderer they are VQ codes."""
    if renderer is not None:
        codes = renderer.sample(
            codes, seeds, SamplerConfig(top_p=top_p), batch_size=len(seeds), autocast=codes.is_cuda
        )
    with torch.no_grad():
        return torch.cat([to_uint8(sets.vqgan.decode(part)) for part in codes.split(1000)])


def generated(
    prior: Prior, renderer: MaskedRenderer | None, sets: Sets, judge: Judge, scale: Scale, picture: Path
) -> dict[str, Any]:
    """The best distance over the settings; the first pictures of it as a grid."""
    tries, best = [], None
    for top_p in scale.top_p:
        parts = []
        for start in range(0, scale.samples, scale.draw):
            seeds = list(range(start, min(start + scale.draw, scale.samples)))
            config = SamplerConfig(top_p=top_p)
            codes = prior.sample(seeds, None, config, batch_size=len(seeds), autocast=sets.train.is_cuda)
            parts.append(rendered(codes, seeds, renderer, sets, top_p))
        pixels = torch.cat(parts)
        tries.append({"top_p": top_p, **judge(pixels)})
        if best is None or tries[-1]["FD"] < best["FD"]:
            best = tries[-1]
            with atomic_file(picture) as file:
                grid(pixels[:40].cpu(), columns=10).save(file, "png")
    assert best is not None
    return {**best, "samples": scale.samples, "tries": tries}


def reconstructed(
    codes: Tensor, renderer: MaskedRenderer | None, sets: Sets, judge: Judge, scale: Scale
) -> dict[str, float]:
    """Distance and PSNR of the test pictures out of their own codes: what a perfect prior would reach."""
    parts = []
    for start in range(0, len(codes), scale.draw):
        part = codes[start : start + scale.draw].long()
        parts.append(rendered(part, list(range(start, start + len(part))), renderer, sets, 0.9))
    pixels = torch.cat(parts)
    error = ((pixels.float() - sets.test.float()) / 255).square().mean()
    return {"reconstruction_FD": judge(pixels)["FD"], "reconstruction_PSNR": float(-10 * error.log10())}

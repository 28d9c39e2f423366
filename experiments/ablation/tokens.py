"""An encoder -> a tokenizer, its codes, and what can be said of it before any prior is trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ablation.encoders import open_encoder
from ablation.pictures import Sets, encoded
from ablation.plan import Scale, TokenizerPlan
from torch import Tensor

from digit import kmeans
from digit.evaluation.codebook import codebook_report
from digit.evaluation.probe import fit_probe, probe_results, split_rows
from digit.evaluation.stability import CHANGE, NOISE, VECTORS, as_tokenizer, stability
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.weights.artifact import load, save

SNRS = (30.0, 20.0, 10.0)  # dB


def open_tokenizer(plan: TokenizerPlan, sets: Sets, out: Path, scale: Scale) -> Any:
    """The tokenizer or VQGAN of a plan; K-means is run where it was not yet, and its centroids kept."""
    if plan.encoder == "vq":
        return sets.vqgan
    folder, device = out / "tokenizers" / plan.name, sets.train.device
    if (folder / "config.json").exists():
        return load(folder, kind="tokenizer", device=device)
    encoder = open_encoder(plan.encoder, out, scale, sets)
    vectors = _vectors(encoder, sets.train, plan.codes * scale.per_cluster)
    centroids = kmeans.fit(vectors, plan.codes, device=device).centroids
    tokenizer = Tokenizer(
        TokenizerConfig(encoder.config, plan.codes), encoder=encoder.cpu(), centroids=centroids.cpu()
    )
    save(tokenizer, folder, extra={"size": sets.train.shape[-1], "encoder": plan.encoder})
    return load(folder, kind="tokenizer", device=device)


@torch.no_grad()
def _vectors(encoder: Any, pixels: Tensor, count: int) -> Tensor:
    """As many features for K-means, spread over all pictures: a few random patches of each."""
    device, rows = pixels.device, []
    each = min(encoder.tokens, -(-count // len(pixels)))
    for part in pixels.split(1000):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            features = encoder(part.float() / 255).float()
        chosen = torch.rand(features.shape[:2], device=device).argsort(1)[:, :each]
        rows.append(features.gather(1, chosen[:, :, None].expand(-1, -1, features.shape[2])).flatten(0, 1))
    vectors = torch.cat(rows)
    return vectors[torch.randperm(len(vectors), device=device)[: max(count, 1)]]


def codes_of(plan: TokenizerPlan, tokenizer: Any, sets: Sets) -> tuple[Tensor, Tensor]:
    """int16 codes of the training pictures (n 2 m) and of the test pictures (n m)."""
    if plan.encoder == "vq":
        return sets.train_vq, sets.test_vq
    device = sets.train.device
    return encoded(tokenizer.encode, sets.train, device, views=2), encoded(
        tokenizer.encode, sets.test, device
    )[:, 0]


def describe(
    plan: TokenizerPlan, tokenizer: Any, sets: Sets, codes: Tensor, scale: Scale
) -> dict[str, float]:
    """Use of the codebook, stability under noise at the own size, a probe on what is quantised."""
    use = codebook_report(codes[:, 0].cpu().numpy(), plan.codes)
    values = {"entropy_bits": float(use["entropy_bits"]), "usage": float(use["usage"])}
    noises = [how for how in NOISE if how.strength in SNRS]
    found = dict(stability(as_tokenizer(tokenizer), _shown(sets, scale), perturbations=noises))
    for how in noises:
        values[f"token_change_{how.strength:g}dB"] = found[f"{CHANGE}, {how.name}"]
        values[f"vector_cosine_{how.strength:g}dB"] = found[f"{VECTORS}, {how.name}"]
    pooled = [_pooled(plan, tokenizer, pixels) for pixels in (sets.train, sets.test)]
    return values | {"probe_encoder": probed(pooled[0], pooled[1], sets, scale)["top-1 best layer"]}


def probed(train: Tensor, test: Tensor, sets: Sets, scale: Scale) -> dict[str, float]:
    """Linear heads on frozen features; a tenth of the training pictures chooses rate and layer."""
    rows, kept = split_rows(len(train))
    probe = fit_probe(train, sets.train_labels, classes=sets.classes, rows=rows, epochs=scale.probe_epochs)
    chooses = train[kept.to(train.device)], sets.train_labels[kept.to(train.device)]
    return dict(probe_results(probe, chooses, (test, sets.test_labels)))


def _shown(sets: Sets, scale: Scale) -> Iterator[Tensor]:
    step = max(1, len(sets.test) // scale.disturbed)
    for part in sets.test[::step].split(250):
        yield part.float() / 255


@torch.no_grad()
def _pooled(plan: TokenizerPlan, tokenizer: Any, pixels: Tensor) -> Tensor:
    """What is quantised, averaged over the picture: float16 n 1 d."""
    rows = []
    for part in pixels.split(1000):
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=pixels.is_cuda):
            given = part.float() / 255
            if plan.encoder == "vq":
                features = tokenizer.latents(given).flatten(2).transpose(1, 2)
            else:
                features = tokenizer.features(given)
        rows.append(features.float().mean(1, keepdim=True).half())
    return torch.cat(rows)

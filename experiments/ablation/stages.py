"""Codes -> priors and renderers of equal training, and how long a step of each takes."""

from pathlib import Path
from typing import Any

import torch
from ablation.pictures import CodeBatches, Sets
from ablation.plan import PriorPlan, Scale, renderer_steps
from pace import seconds_per_step
from torch import nn

from digit.prior import Prior, PriorConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.log import read_status
from digit.training.loop import train


def prior_of(codes: int, length: int, size: str, scale: Scale) -> Prior:
    """A prior without labels, as in the paper's ablations, its weights drawn from seed 0."""
    width, layers = getattr(scale, size)
    torch.manual_seed(0)
    shape = {"width": width, "layers": layers, "heads": max(1, width // 64), "norm": "pre"}
    return Prior(PriorConfig(codes, length, **shape))


def renderer_of(codes: int, length: int, sets: Sets, scale: Scale) -> MaskedRenderer:
    """A masked renderer: eight passes draw all VQ codes of a picture."""
    width, layers = scale.renderer
    torch.manual_seed(0)
    vq = {"vq_codes": sets.vqgan.config.codes, "vq_length": sets.vqgan.length}
    shape = {"width": width, "layers": layers, "heads": max(1, width // 64)}
    return MaskedRenderer(MaskedConfig(codes, length, **vq, **shape))


def optimizer_config(steps: int) -> OptimizerConfig:
    """A constant rate and averaged weights: a run may be measured on the way and then go on."""
    return OptimizerConfig(
        lr=6e-4,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        decay_all=False,
        schedule="constant",
        warmup=max(1, min(300, steps // 10)),
    )


def trained(
    stage: nn.Module,
    data: Any,
    out: Path,
    *,
    steps: int,
    total: int,
    limit: float,
    batch: int,
    compile: bool = False,
) -> bool:
    """Train to `steps` of `total`; whether it came that far in `limit` seconds. Leaves averaged weights."""
    if limit <= 0:
        return False
    config = TrainConfig(
        steps=steps,
        batch=batch,
        optimizer=optimizer_config(total),
        ema=0.999,
        save_every=10**9,  # at the end, and at the limit
        keep=1,
        compile=compile,
        wall_clock_limit=limit,
    )
    train(stage, data, config, out, device=data.codes.device, title=out.name)
    status = read_status(out)
    return status is not None and status.finished


def equal_steps(
    sets: Sets, plans: list[PriorPlan], scale: Scale, *, seconds: float, overhead: float
) -> dict[str, Any]:
    """The same number of steps for every prior, and for every renderer, so that all fit into `seconds`.

    Timed on random codes without the compiler, one training at a time; `overhead` seconds a row go to
    sampling and probes.
    """
    length = sets.vqgan.length
    tokenizers = {plan.tokenizer for plan in plans}
    vq_codes = sets.train_vq[:512, :1]
    codes = torch.randint(scale.codes[0], (len(vq_codes), 1, length), device=vq_codes.device).short()
    each: dict[str, float] = {}
    for size in {plan.size for plan in plans}:
        stage = prior_of(max(t.codes for t in tokenizers), length, size, scale)
        each[size] = _seconds(stage, CodeBatches(codes, scale.batch))
    data = CodeBatches(codes, scale.batch, vq_codes)
    each["renderer"] = _seconds(renderer_of(scale.codes[1], length, sets, scale), data)
    whole = sum(each[plan.size] for plan in plans if plan.share == 1)
    rendered = sum(tokenizer.encoder != "vq" for tokenizer in tokenizers)
    whole += each["renderer"] * rendered * renderer_steps(300) / 300
    spare = max(0.2 * seconds, seconds - overhead * len(plans))
    steps = max(20, round(spare / whole / 20) * 20)
    found = {"steps": steps, "renderer_steps": renderer_steps(steps)}
    return {**found, "seconds_per_step": each, "seconds": seconds}


def _seconds(stage: Any, data: Any) -> float:
    device = data.codes.device
    return seconds_per_step(stage.to(device).train(), data, device)

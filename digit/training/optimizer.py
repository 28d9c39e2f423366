"""AdamW or SGD and the learning rate, as the published runs have them (fairseq 0.12.2)."""

import math

import torch
from torch import nn

from digit.errors import DigitError, spoken
from digit.training.config import OptimizerConfig

FALLING = 0.3  # share of a trapezoid's updates in which the learning rate falls


def learning_rate(step: int, config: OptimizerConfig, total: int) -> float:
    """The learning rate of the update that follows `step` finished ones, of `total`.

    Linear from `warmup_from` to `lr` over the warm-up, then lr * sqrt(warmup / step), half a cosine to
    `min_lr` at `total`, constant, or constant and from 70 % of `total` on linear to `min_lr` (trapezoid).
    From `total` on, where no update is, it stays at `min_lr`, while the reference's cosine would begin a
    second period at a tenth of `lr`.
    """
    if step < config.warmup:
        return config.warmup_from + step * (config.lr - config.warmup_from) / config.warmup
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(config.warmup / step)
    if config.schedule == "cosine":
        period = max(1, total - config.warmup)
        done = min(step - config.warmup, period)
        # Near the end the cosine is all rounding: the reference's order of operations gives its very numbers.
        return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1 + math.cos(math.pi * done / period))
    if config.schedule == "trapezoid":
        left = min(1.0, max(0, total - step) / (FALLING * total))
        return config.min_lr + left * (config.lr - config.min_lr)
    return config.lr


def warm_up_warning(config: OptimizerConfig, total: int) -> str | None:
    """A sentence where a run of `total` updates ends within its warm-up."""
    if config.warmup <= total:
        return None
    last = learning_rate(total - 1, config, total)
    return spoken(
        f"the warm-up of {config.warmup:,} updates is longer than the run of {total:,}: the learning rate "
        f"ends at {last:.1e} and never reaches {config.lr:g}, give a shorter --warmup"
    )


def epsilon(step: int, config: OptimizerConfig) -> float:
    """The eps that torch's AdamW must have at the update that follows `step` finished ones.

    With "reference" the update is lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps), t = step + 1, as in
    fairseq 0.12.2 without apex. That is torch's, which adds eps to sqrt(v / (1 - b2^t)), with eps divided by
    sqrt(1 - b2^t). It holds for parameters that have had a gradient in every update.
    """
    if config.epsilon == "corrected":
        return config.eps
    return config.eps / math.sqrt(1 - config.betas[1] ** (step + 1))


def prepare(optimizer: torch.optim.Optimizer, config: OptimizerConfig, *, step: int, total: int) -> None:
    """Set what the update after `step` finished ones, of `total`, needs; a function of the step alone."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config, total)
        if config.kind == "adamw":
            group["eps"] = epsilon(step, config)


def build(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the trainable parameters of `module`, fused on CUDA; DigitError if there is none."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise DigitError(f"{type(module).__name__} has no trainable parameter: there is nothing to train")
    decays = [parameter for parameter in trainable if config.decay_all or parameter.ndim >= 2]
    others = [parameter for parameter in trainable if not config.decay_all and parameter.ndim < 2]
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decays, config.weight_decay), (others, 0.0))
        if parameters
    ]
    fused = all(parameter.is_cuda for parameter in trainable) or None
    if config.kind == "sgd":
        sgd = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.betas[0], nesterov=config.nesterov, fused=fused
        )
        if fused and config.betas[0] > 0:
            # torch would begin with memory as it lies, which a skipped first update leaves as it is.
            for parameter in trainable:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)

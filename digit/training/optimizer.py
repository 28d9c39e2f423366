"""AdamW or SGD and the learning rate, as the published runs have them (fairseq 0.12.2)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from digit.errors import DigitError


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer with a schedule; the defaults are the published stage-1 run."""

    kind: Literal["adamw", "sgd"] = "adamw"  # sgd: Nesterov momentum betas[0], decay times the learning rate
    lr: float = 3e-4  # peak learning rate
    betas: tuple[float, float] = (0.9, 0.98)  # decay of the two moments, per update
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.01  # decoupled, times the learning rate
    decay_all: bool = True  # biases, norms and embeddings decay too, as in the reference; else matrices only
    schedule: Literal["inverse_sqrt", "cosine", "constant"] = "inverse_sqrt"  # after the warm-up
    warmup: int = 6250  # updates of linear warm-up
    warmup_from: float = 1e-7  # learning rate of the first update, where there is a warm-up
    min_lr: float = 0.0  # where the cosine ends

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.lr <= 0 or self.eps <= 0 or self.weight_decay < 0 or not 0 <= self.min_lr <= self.lr:
            raise DigitError(
                "optimizer: lr and eps must be > 0, weight_decay >= 0 and min_lr between 0 and lr"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise DigitError(f"optimizer: betas {self.betas} must both be in [0, 1)")
        if self.warmup < 0 or (self.schedule == "inverse_sqrt" and self.warmup == 0):
            raise DigitError(f"optimizer: warmup {self.warmup} must be >= 0, and >= 1 with inverse_sqrt")


def learning_rate(step: int, config: OptimizerConfig, total: int) -> float:
    """The learning rate of the update that follows `step` finished ones, of `total`.

    Linear from `warmup_from` to `lr` over the warm-up, then lr * sqrt(warmup / step), half a cosine to
    `min_lr` at `total`, or constant.
    """
    if step < config.warmup:
        return config.warmup_from + step * (config.lr - config.warmup_from) / config.warmup
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(config.warmup / step)
    if config.schedule == "cosine":
        done = min(1.0, (step - config.warmup) / max(1, total - config.warmup))
        return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr


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
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0], nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)

"""The settings of a training run; readable without torch."""

import math
from dataclasses import dataclass, field
from typing import Literal

from digit.errors import DigitError


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer with a schedule; the defaults are the published stage-1 run."""

    kind: Literal["adamw", "sgd"] = "adamw"  # sgd: momentum betas[0], decay times the learning rate
    lr: float = 3e-4  # peak learning rate
    betas: tuple[float, float] = (0.9, 0.98)  # decay of the two moments, per update
    eps: float = 1e-8  # added to the root of the second moment
    epsilon: Literal["corrected", "reference"] = "corrected"  # eps after or before the correction for bias
    nesterov: bool = True  # sgd: look ahead along the momentum; the published linear probe does not
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
        if self.kind == "sgd" and self.nesterov and self.betas[0] == 0:
            raise DigitError("optimizer: Nesterov's method needs momentum, give betas[0] > 0 or no nesterov")
        if self.warmup < 0 or (self.schedule == "inverse_sqrt" and self.warmup == 0):
            raise DigitError(f"optimizer: warmup {self.warmup} must be >= 0, and >= 1 with inverse_sqrt")


@dataclass(frozen=True)
class TrainConfig:
    """How a stage is trained, whatever the stage."""

    steps: int  # updates in all
    batch: int  # samples per update, of all processes together
    micro_batch: int | None = None  # samples per forward pass of a process, accumulated; None: all at once
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    clip: float | None = 1.0  # norm of the whole gradient, at most; None: not clipped
    skips: int = 5  # updates in a row, skipped as loss or gradient is not finite, that stop the run
    ema: float | None = None  # decay of the averaged weights per update; None: no average
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # autocast of the loss; auto: bf16 on CUDA
    seed: int = 0  # of all randomness inside loss(batch)
    log_every: int = 50  # updates
    evaluate_every: int = 0  # updates; 0: at the end only
    sample_every: int = 0  # updates; 0: at the end only
    save_every: int = 1000  # updates
    keep: int = 2  # states kept on disk
    compile: bool = True  # on a GPU: torch.compile, and kernels of our own in post-norm blocks
    sharded: bool = False  # of several processes each keeps a part of weights and moments (FSDP2)
    wall_clock_limit: float | None = None  # seconds of this process, after which the run is saved and left
    tensorboard: bool = False  # write out/tensorboard as well

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        for name in ("steps", "batch", "skips", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise DigitError(f"training: {name} is {getattr(self, name)}, it must be at least 1")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise DigitError(
                f"training: micro_batch is {self.micro_batch}, it must be at least 1 (or left out)"
            )
        if self.clip is not None and self.clip <= 0:
            raise DigitError(f"training: clip is {self.clip}, it must be above 0 (or left out)")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise DigitError(f"training: ema is {self.ema}, it must be in [0, 1)")


def accumulation(config: TrainConfig, processes: int = 1) -> int:
    """Forward passes per update in each of `processes` processes that share the global batch evenly.

    Where micro_batch does not divide a process's samples the last pass is smaller and counts by its share, so
    that the gradient is the mean over the global batch whatever the micro-batch.

    Raises:
        DigitError: the global batch does not divide by the number of processes.
    """
    if processes < 1 or config.batch % processes:
        raise DigitError(
            f"training: batch {config.batch} does not divide among {processes} processes: "
            "choose a multiple of them"
        )
    samples = config.batch // processes
    return math.ceil(samples / min(config.micro_batch or samples, samples))

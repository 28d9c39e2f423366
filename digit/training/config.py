"""The settings of a training run; readable without torch."""

import math
from dataclasses import dataclass, field
from typing import Literal

from digit.bounds import Batch, Count, Decay, Positive, Seed, Weight, Whole
from digit.calls import check_fields
from digit.errors import DigitError

Tracker = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer with a schedule; the defaults are the published stage-1 run."""

    kind: Literal["adamw", "sgd"] = "adamw"  # sgd: momentum betas[0], decay times the learning rate
    lr: Positive = 3e-4  # peak learning rate
    betas: tuple[Decay, Decay] = (0.9, 0.98)  # decay of the two moments, per update
    eps: Positive = 1e-8  # added to the root of the second moment
    epsilon: Literal["corrected", "reference"] = "corrected"  # eps after or before the correction for bias
    nesterov: bool = True  # sgd: look ahead along the momentum; the published linear probe does not
    weight_decay: Weight = 0.01  # decoupled, times the learning rate
    decay_all: bool = True  # biases, norms and embeddings decay too, as in the reference; else matrices only
    schedule: Literal["inverse_sqrt", "cosine", "constant", "trapezoid"] = (
        "inverse_sqrt"  # after the warm-up; trapezoid: constant, in the last 30 % of all updates to min_lr
    )
    warmup: Whole = 6250  # updates of linear warm-up
    warmup_from: Weight = 1e-7  # learning rate of the first update, where there is a warm-up
    min_lr: Weight = 0.0  # where the cosine and the trapezoid end

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check_fields(self)
        if self.min_lr > self.lr:
            raise DigitError(f"min_lr: {self.min_lr} is above lr, {self.lr}: give a smaller one")
        if self.kind == "sgd" and self.nesterov and self.betas[0] == 0:
            raise DigitError(
                "betas: Nesterov's method needs momentum, give a first one above 0 (or nesterov=False)"
            )
        if self.schedule == "inverse_sqrt" and self.warmup == 0:
            raise DigitError(
                "--warmup 0: the schedule inverse_sqrt needs at least 1, or take another --schedule"
            )


@dataclass(frozen=True)
class TrainConfig:
    """How a stage is trained, whatever the stage."""

    steps: Count  # updates in all
    batch: Batch  # samples per update, of all processes together
    micro_batch: Batch | None = None  # samples per forward pass of a process, accumulated; None: all at once
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    clip: Positive | None = 1.0  # norm of the whole gradient, at most; None: not clipped
    skips: Count = 5  # updates in a row, skipped as loss or gradient is not finite, that stop the run
    ema: Decay | None = None  # decay of the averaged weights per update; None: no average
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # autocast of the loss; auto: bf16 on CUDA
    seed: Seed = 0  # of all randomness inside loss(batch)
    log_every: Count = 50  # updates
    evaluate_every: Whole = 0  # updates; 0: at the end only
    sample_every: Whole = 0  # updates; 0: at the end only
    save_every: Count = 1000  # updates
    keep: Count = 2  # states kept on disk
    compile: bool = True  # on a GPU: torch.compile, and kernels of our own in post-norm blocks
    sharded: bool = False  # of several processes each keeps a part of weights and moments (FSDP2)
    wall_clock_limit: Weight | None = None  # seconds of this process, after which the run is saved and left
    tracker: tuple[Tracker, ...] = ()  # where losses and pictures go too; files of this machine

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check_fields(self)


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

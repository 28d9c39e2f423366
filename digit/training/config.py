"""The settings of a training run."""

import math
from dataclasses import dataclass, field
from typing import Literal

from digit.errors import DigitError
from digit.training.optimizer import OptimizerConfig


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
    precision: Literal["auto", "bf16", "fp32"] = (
        "auto"  # autocast of the loss; auto: bf16 on CUDA, fp32 elsewhere
    )
    seed: int = 0  # of all randomness inside loss(batch)
    log_every: int = 50  # updates
    evaluate_every: int = 0  # updates; 0: at the end only
    sample_every: int = 0  # updates; 0: at the end only
    save_every: int = 1000  # updates
    keep: int = 2  # states kept on disk
    compile: bool = False  # torch.compile the stage: its compile_parts() where it has one, else its loss
    kernels: bool = False  # Triton kernels between the products of post-norm blocks: bf16 on a GPU
    sharded: bool = False  # of several processes each keeps a part of weights and moments (FSDP2)
    wall_clock_limit: float | None = (
        None  # seconds in this process, after which the run is saved and left unfinished
    )
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

"""What a training run will take of a board, before it is begun: memory by parts, hours, disk.

Speeds are not guessed: they are shares of the data sheet's rate that were measured (`MEASURED_ON`), between
two sizes in proportion to the logarithm of the parameters.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from digit.training.config import TrainConfig, accumulation
from digit.training.flops import BOARDS, flops_per_sample
from digit.training.memory import Held, held
from digit.training.parallel import blocks

GIB = 2**30
# GiB that a process can have of a board, a little less than the data sheet's GB.
MEMORY = {"H100": 79, "H100 PCIe": 79, "H100 NVL": 93, "H200": 140, "A100": 79, "A100 40GB": 39}
# Beside what is counted: CUDA's own, NCCL's buffers, and what the allocator cannot use. Assumed.
CONTEXT, NCCL, UNUSABLE = 0.6 * GIB, 1.0 * GIB, 0.04
# Of one board's speed each of several keeps. The goal (two boards 1.9 times one); not measured so far.
EFFICIENCY = 0.95
# (parameters in millions, share of the data sheet's bf16 rate) of whole updates on one board.
MEASURED_MFU = {
    "eager": ((38.3, 0.153), (218.6, 0.347), (729.5, 0.422)),
    "compiled": ((38.3, 0.217), (218.6, 0.440), (729.5, 0.479)),
    "kernels": ((218.6, 0.468), (729.5, 0.501)),
}
MEASURED_ON = {
    "eager": "H200 with --no-compile (bench/results/recipes.json)",
    "compiled": "H200 compiled (bench/results/recipes.json)",
    "kernels": "H100 compiled and by kernels (bench/results/train-h100.json)",
}


@dataclass(frozen=True)
class Memory:
    """Bytes of one process's board, by what they are for."""

    weights: int
    gradients: int  # where several micro-batches or processes add to them; else they come as activations go
    moments: int
    average: int
    communication: (
        int  # DDP's buckets beside gradients of earlier micro-batches, or blocks that FSDP2 gathers
    )
    activations: int
    working: int  # logits and other things that are held for a moment
    headroom: int  # of CUDA, NCCL and the allocator: assumed, not counted

    @property
    def counted(self) -> int:
        """What torch.cuda.max_memory_allocated would say."""
        return self.total - self.headroom

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


def peak(board: str) -> float:
    """A board's dense bf16 FLOP/s by its data sheet."""
    return next(rate for name, rate in BOARDS.items() if name in board)


def micro_batch(config: TrainConfig, processes: int) -> int:
    """Samples of one forward pass; DigitError where the batch does not divide among the processes."""
    accumulation(config, processes)
    share = config.batch // processes
    return min(config.micro_batch or share, share)


def measure(stage: nn.Module, batch: Any, config: TrainConfig, *, processes: int) -> Held | None:
    """What loss and gradient of a micro-batch hold on a GPU; None where that cannot be counted."""
    return held(
        stage,
        batch,
        size=micro_batch(config, processes),
        bf16=config.precision != "fp32",
        compiled=config.compile,  # with kernels or without
        accumulates=accumulates(config, processes),
    )


def accumulates(config: TrainConfig, processes: int) -> bool:
    """Whether gradients are there before a loss: from an earlier micro-batch, or in DDP's buckets."""
    return processes > 1 or accumulation(config, processes) > 1


def memory(stage: nn.Module, found: Held, config: TrainConfig, *, processes: int, sharded: bool) -> Memory:
    """All parts of a process's memory; `sharded` as TrainConfig says it, of `processes` processes."""
    trainable = _bytes(p for p in stage.parameters() if p.requires_grad)
    everything = [*stage.parameters(), *stage.buffers()]
    adam = 2 if config.optimizer.kind == "adamw" else 1 if config.optimizer.betas[0] else 0
    parts = {
        "weights": _bytes(everything),
        "gradients": trainable if accumulates(config, processes) else 0,
        "moments": adam * trainable,
        "average": 0 if config.ema is None else _bytes(t for t in everything if t.is_floating_point()),
    }
    communication, activations = 0, found.activations
    if sharded and processes > 1:
        parts = {name: math.ceil(size / processes) for name, size in parts.items()}
        # A block's weights and the next one's in bf16, its gradients in float32, and all outside of blocks.
        communication = 2 * _largest_block(stage) + _outside(stage) // 2
        activations -= found.copies
    elif processes > 1 and accumulation(config, processes) > 1:
        communication = trainable
    parts |= {"communication": communication, "activations": activations, "working": found.working}
    headroom = CONTEXT + (NCCL if processes > 1 else 0) + UNUSABLE * sum(parts.values())
    return Memory(**parts, headroom=int(headroom))


def largest_micro_batch(parts: Memory, size: int, board: str) -> int:
    """How many samples at once would fit the board, by what each of `size` takes; 0 if none would."""
    samples = (1 + UNUSABLE) * (parts.activations + parts.working) / size
    rest = parts.total - samples * size
    return max(0, int((MEMORY[board] * GIB - rest) / samples))


def mode(stage: nn.Module, config: TrainConfig) -> str:
    """Which of the measured ways of training comes nearest to the settings."""
    if not config.compile:
        return "eager"
    return "kernels" if any(not block.pre for block in blocks(stage)) and not config.sharded else "compiled"


def assumed_mfu(parameters: int, way: str) -> float:
    """The measured share of the data sheet's rate at this size; outside of the measured sizes the nearest."""
    points = MEASURED_MFU[way]
    sizes = np.log([size for size, _ in points])
    return float(np.interp(math.log(parameters / 1e6), sizes, [share for _, share in points]))


def hours(flops: float, config: TrainConfig, board: str, *, boards: int, mfu: float) -> float:
    """Of the whole run, where loss and gradient of a sample take `flops`."""
    rate = boards * peak(board) * mfu * (EFFICIENCY if boards > 1 else 1.0)
    return flops * config.batch * config.steps / rate / 3600


def flops_of(stage: nn.Module, batch: Any, found: Held | None) -> float | None:
    """FLOPs of a sample's loss and gradient, by flops_per_sample or, where it cannot tell, by `found`."""
    return flops_per_sample(stage, batch) or (found.flops if found else None)


def state_bytes(stage: nn.Module, config: TrainConfig) -> int:
    """Bytes of one saved state: weights, moments and average."""
    unsharded = memory(stage, Held(0, 0, 0, 0.0), config, processes=1, sharded=False)
    return unsharded.weights + unsharded.moments + unsharded.average


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _largest_block(stage: nn.Module) -> int:
    """Bytes of the largest transformer block; 0 if there is none."""
    return max((_bytes(block.parameters()) for block in blocks(stage)), default=0)


def _outside(stage: nn.Module) -> int:
    """Bytes of the parameters that are in no transformer block."""
    return _bytes(stage.parameters()) - sum(_bytes(block.parameters()) for block in blocks(stage))

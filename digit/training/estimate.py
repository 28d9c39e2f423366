"""What a training run will take of a GPU, before it is begun: memory by parts, hours, disk.

Memory is weights, gradients and moments by their sizes, and what the backward pass keeps of a sample, found
out on the meta device: within 10 % of what was measured of compiled transformers. Speeds are shares of the
data sheet's rate that were measured (`MEASURED_ON`), between two sizes in proportion to the logarithm of the
parameters.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digit.nn.batch import rows, split
from digit.training.config import TrainConfig, accumulation
from digit.training.flops import PEAKS, OnMeta, loss, tensors_of, to_meta, unchanged
from digit.training.parallel import blocks

GIB = 2**30
# GiB that a process can have of a GPU, a little less than the data sheet's GB.
MEMORY = {"H100": 79, "H100 PCIe": 79, "H100 NVL": 93, "H200": 140, "A100": 79, "A100 40GB": 39}
# Beside what is counted: CUDA's own, NCCL's buffers, and what the allocator cannot use. Assumed.
CONTEXT, NCCL, UNUSABLE = 0.6 * GIB, 1.0 * GIB, 0.04
# Of one GPU's speed each of several keeps. The goal (two GPUs 1.9 times one); not measured so far.
EFFICIENCY = 0.95
# (parameters in millions, share of the data sheet's bf16 rate) of whole updates on one GPU.
MEASURED_MFU = {
    "eager": ((38.3, 0.153), (218.6, 0.347), (729.5, 0.422)),
    "compiled": ((38.3, 0.217), (218.6, 0.440), (729.5, 0.479)),
    "kernels": ((218.6, 0.468), (729.5, 0.501)),
}
MEASURED_ON = {
    "eager": "H200 with --no-compile (bench/results/recipes.json)",
    "compiled": "H200, compiled (bench/results/recipes.json)",
    "kernels": "H100, compiled and by kernels (bench/results/train-h100.json)",
}


@dataclass(frozen=True)
class Memory:
    """Bytes that a process has of its GPU, by what they are for."""

    weights: int  # with their bf16 copies, which the products read
    gradients: int  # where several micro-batches or processes add to them; else they come as activations go
    moments: int
    average: int
    gathered: int  # blocks of a sharded stage that are whole while they compute
    activations: int  # of a micro-batch, kept for the backward pass
    headroom: int  # of CUDA, NCCL and the allocator: assumed, not counted

    @property
    def counted(self) -> int:
        """What torch.cuda.max_memory_allocated would say."""
        return self.total - self.headroom

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


def memory(stage: nn.Module, batch: Any, config: TrainConfig, *, processes: int) -> Memory | None:
    """All parts of a process's memory; None where the loss asks for values, which the meta device has not."""
    kept = kept_of_a_sample(stage, batch, config)
    if kept is None:
        return None
    trainable = _bytes(p for p in stage.parameters() if p.requires_grad)
    several, sharded = accumulation(config, processes) > 1, config.sharded and processes > 1
    copies = trainable // 2 if config.precision != "fp32" and not sharded else 0
    gradients = trainable if several or processes > 1 else 0
    if several and processes > 1 and not sharded:
        gradients *= 2  # DDP's buckets, beside the gradients of earlier micro-batches
    weights, moments, average = state_parts(stage, config)
    gathered = 0
    if sharded:
        weights, gradients, moments, average = (
            math.ceil(size / processes) for size in (weights, gradients, moments, average)
        )
        # A block's weights and the next one's in bf16, its gradients in float32, and all outside of blocks.
        sizes = [_bytes(block.parameters()) for block in blocks(stage)]
        gathered = 2 * max(sizes, default=0) + (_bytes(stage.parameters()) - sum(sizes)) // 2
    parts = (weights + copies, gradients, moments, average, gathered, kept * micro_batch(config, processes))
    headroom = CONTEXT + (NCCL if processes > 1 else 0) + UNUSABLE * sum(parts)
    return Memory(*parts, headroom=int(headroom))


def kept_of_a_sample(stage: nn.Module, batch: Any, config: TrainConfig) -> int | None:
    """Bytes that the forward pass keeps for the backward pass; None where the loss asks for values.

    All tensors are in bf16 unless precision is fp32, as the compiler keeps them. Neither weights nor buffers
    nor random numbers change.
    """
    dtype = torch.float32 if config.precision == "fp32" else torch.bfloat16
    part, tensors = to_meta(split(batch, 2)[0][0], dtype), tensors_of(stage, dtype)
    own = {id(tensor.untyped_storage()) for tensor in tensors.values()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in own:
            kept[id(storage)] = storage  # held on to, so that no other gets its number
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    try:
        with unchanged(stage), _OnGPU(dtype, masks=not config.compile) as gpu, hooks:
            loss(stage, tensors, part)
    except (RuntimeError, ValueError):  # as in flops_per_sample
        return None
    return (sum(storage.nbytes() for storage in kept.values()) + gpu.beside) // rows(part)


PRODUCTS = {F.linear, F.conv2d, F.conv_transpose2d, torch.matmul, Tensor.matmul, torch.einsum, torch.bmm}


class _OnGPU(OnMeta):
    """What a GPU keeps of attention, dropout and a loss; products in one dtype, as under autocast."""

    def __init__(self, dtype: torch.dtype, *, masks: bool) -> None:
        super().__init__()
        self.dtype, self.masks = dtype, masks
        self.beside = 0  # bytes that no saved tensor tells of

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        if func is F.dropout:  # a mask of a byte a value, which the compiler makes again instead
            self.beside += self.masks * args[0].numel()
            return args[0].view_as(args[0])
        if func is F.cross_entropy:
            self.beside += args[0].nbytes  # the logits' gradient, made beside them
        if func in PRODUCTS:
            args, kwargs = to_meta((args, kwargs), self.dtype)
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    """Attention keeps its inputs and its output, never the square of the positions."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed = torch.empty_like(queries)
        ctx.save_for_backward(queries, keys, values, mixed)
        return mixed


def micro_batch(config: TrainConfig, processes: int) -> int:
    """Samples of one forward pass; DigitError where the batch does not divide among the processes."""
    accumulation(config, processes)
    share = config.batch // processes
    return min(config.micro_batch or share, share)


def largest_micro_batch(parts: Memory, size: int, gpu: str) -> int:
    """How many samples at once would fit the GPU, by what each of `size` takes; 0 if none would."""
    sample = (1 + UNUSABLE) * parts.activations / size
    return max(0, int((MEMORY[gpu] * GIB - (parts.total - sample * size)) / sample))


def state_parts(stage: nn.Module, config: TrainConfig) -> tuple[int, int, int]:
    """Bytes of a saved state: weights, moments and average."""
    everything = [*stage.parameters(), *stage.buffers()]
    trainable = _bytes(p for p in stage.parameters() if p.requires_grad)
    moments = 2 if config.optimizer.kind == "adamw" else 1 if config.optimizer.betas[0] else 0
    average = 0 if config.ema is None else _bytes(t for t in everything if t.is_floating_point())
    return _bytes(everything), moments * trainable, average


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


def peak(gpu: str) -> float:
    """A GPU's dense bf16 FLOP/s by its data sheet."""
    return next(rate for name, rate in PEAKS.items() if name in gpu)


def hours(flops: float, config: TrainConfig, gpu: str, *, gpus: int, mfu: float) -> float:
    """Of the whole run, where loss and gradient of a sample take `flops`."""
    rate = gpus * peak(gpu) * mfu * (EFFICIENCY if gpus > 1 else 1.0)
    return flops * config.batch * config.steps / rate / 3600


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

"""A stage's loss in several processes: every process has all weights (DDP), or a part of each (FSDP2)."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from digit.distributed import add_up, as_main, world_size
from digit.errors import DigitError
from digit.nn.transformer import Block
from digit.training.flops import Computing
from digit.training.shards import full, local


class Parallel:
    """How an update reaches the loss of `stage`, which it may change to be run by several processes.

    In one process that is `stage.loss` and nothing else. In several, gradients are the means over all of them
    once `loss` was called with `last`, and buffers are those of the main process, as DDP has them; on GPUs
    batch statistics are of the whole batch (SyncBatchNorm).
    """

    def __init__(self, stage: nn.Module, device: torch.device, *, sharded: bool, bf16: bool) -> None:
        """Move the stage to `device`; all processes begin with the main one's weights.

        `bf16`: sharded weights travel in bfloat16. Raises DigitError if `sharded` and the stage has no
        transformer blocks, which are the parts that are gathered one after another.
        """
        self.sharded = sharded and world_size() > 1
        self.stage, self._replicas = stage, None
        self._replicated = world_size() > 1 and not self.sharded
        self._device, self.empty = device, stage
        if self.sharded:
            self.empty = _without_data(stage)
        else:
            stage.to(device)
        as_main(*(tensor.data for tensor in (*stage.parameters(), *stage.buffers())))
        if self.sharded:
            shard(stage, device, bf16=bf16)
        self.compute: Any = stage.loss  # or its compiled form
        if self._replicated and device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(stage)

    def begin(self) -> None:
        """To be called before the micro-batches of an update.

        A stage with `partial_gradients` says there whether the next update leaves parameters without a
        gradient, which DDP must know: it waits for all of them, or looks which there will be.
        """
        partial = getattr(self.stage, "partial_gradients", False)
        if self._replicas is not None and self._replicas.find_unused_parameters != partial:
            self._replicas._remove_autograd_hooks()
            self._replicas = None
        if self._replicated and self._replicas is None:
            self._replicas = DistributedDataParallel(
                Computing(self.stage, lambda batch: self.compute(batch)),  # as it is then: perhaps compiled
                find_unused_parameters=partial,
                gradient_as_bucket_view=True,
                init_sync=False,
            )

    @contextlib.contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """Inside is the loss of one micro-batch and its gradient; after the `last` all gradients are means.

        Shards exchange theirs after each: kept whole until the last they would need the memory of all.
        """
        with contextlib.nullcontext() if last or self._replicas is None else self._replicas.no_sync():
            yield

    def loss(self, batch: Any) -> Tensor:
        """The stage's loss of this process's micro-batch."""
        return self.compute(batch) if self._replicas is None else self._replicas(batch)

    def compile(self) -> None:
        """From now on the loss runs compiled: by the stage's `compile_parts` where it has them, else whole.

        Of a sharded stage each block is compiled, between the exchanges of weights.
        """
        stage: Any = self.stage
        if hasattr(stage, "compile_parts"):
            stage.compile_parts()
        elif self.sharded:
            for block in blocks(stage):
                block.forward = torch.compile(block.forward, dynamic=False)
        else:
            self.compute = torch.compile(stage.loss, dynamic=False)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of the whole gradient, of all processes' shards together."""
        norm = torch.nn.utils.get_total_norm([local(gradient) for gradient in gradients]).float()
        if self.sharded:
            square = norm.square()
            add_up(square)
            return square.sqrt()
        return norm

    @torch.no_grad()
    def whole(self) -> nn.Module:
        """The stage, or where it is sharded a copy with all weights; to be called in all processes."""
        if not self.sharded:
            return self.stage
        copied = copy.deepcopy(self.empty).to_empty(device=self._device)
        live = dict((*self.stage.named_parameters(), *self.stage.named_buffers()))
        for name, tensor in (*copied.named_parameters(), *copied.named_buffers()):
            tensor.copy_(full(live[name]))
        return copied.train(self.stage.training)


def _without_data(stage: nn.Module) -> nn.Module:
    """A copy whose tensors are on the meta device."""
    known: dict[int, Any] = {}
    for tensor in (*stage.parameters(), *stage.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(stage, known)


def blocks(stage: nn.Module) -> list[Block]:
    """The transformer blocks of a stage."""
    return [part for part in stage.modules() if isinstance(part, Block)]


def shard(stage: nn.Module, device: torch.device, *, bf16: bool) -> None:
    """Leave this process its part of each parameter; the weights of a block are gathered while it computes.

    DigitError if the stage has no transformer blocks.
    """
    # Sharded runs alone import these, which takes most of a second.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    parts = blocks(stage)
    if not parts:
        raise DigitError(
            f"{type(stage).__name__} has no transformer blocks to shard: train it without sharded"
        )
    mesh = init_device_mesh(device.type, (world_size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None
    )
    for part in parts:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(stage, mesh=mesh, mp_policy=policy)
    for buffer in stage.buffers():
        buffer.data = buffer.data.to(device)
    register_fsdp_forward_method(stage, "loss")

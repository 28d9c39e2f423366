"""How many floating-point operations a stage's loss and gradient take, counted without computing.

The loss runs on the meta device, where tensors have shapes and no data.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from digit.nn.batch import rows, split

CPU, META = torch.device("cpu"), torch.device("meta")
# Dense bf16 FLOP/s on the data sheets, without sparsity; the first name that is part of the GPU's counts.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


def flops_per_sample(stage: nn.Module, batch: Any) -> float | None:
    """Floating-point operations of the matrix products and convolutions of one sample's loss and gradient.

    Counted on the meta device with the stage's `loss` as it stands: nothing is computed, and neither weights
    nor buffers nor random numbers change. A multiplication and an addition are two. Of causal attention half
    the square counts, as half of it is masked; what is computed again in the backward pass does not count.
    None where the loss asks for values (as a VQGAN's does) or for a GPU, which the meta device has not.
    """
    part, _ = split(to_meta(batch), 2)[0]
    try:
        with unchanged(stage), _Counted() as counted, _Masked() as masked:
            loss(stage, tensors_of(stage), part).backward()
    except (RuntimeError, ValueError):
        # It asks for values, or, by a ValueError, for a GPU, as SyncBatchNorm; others show in the training.
        return None
    return (counted.flops - 3 * masked.flops) / rows(part)


def peak_flops(device: torch.device) -> float | None:
    """The GPU's dense bf16 FLOP/s as its data sheet has it; None for GPUs that are not in the list."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for gpu, peak in PEAKS.items() if gpu in name), None)


class _Counted(TorchDispatchMode):
    """Sums the FLOPs of all that runs, also of gradients inside of a loss, which FlopCounterMode refuses."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


class OnMeta(TorchFunctionMode):
    """Inside, meta tensors say that they are on the CPU: what is asked of that device has an answer."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer for the device, or pass on to `run`."""
        properties: Any = Tensor  # their types are declared as those of their values
        if func == properties.device.__get__:
            return CPU
        # What was told CPU above asks for tensors there: they too have no data.
        args, kwargs = _pytree.tree_map_only(torch.device, lambda _: META, (args, kwargs or {}))
        return self.run(func, args, kwargs)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The function itself, or what stands in for it."""
        return func(*args, **kwargs)


class _Masked(OnMeta):
    """Sums what causal attention's forward passes multiply in vain: of queries by keys and weights by values.

    The backward pass has twice as many products.
    """

    flops = 0

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is F.scaled_dot_product_attention and kwargs.get("is_causal"):
            queries, keys = args[:2]
            self.flops += 2 * queries.numel() * keys.shape[-2]
        return func(*args, **kwargs)


def to_meta(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Whatever `value` is made of, with its tensors on the meta device; floats in `dtype`, if it is given."""
    return _pytree.tree_map_only(Tensor, lambda tensor: _empty(tensor, dtype), value)


def tensors_of(stage: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Parameters and buffers without data, by their names; parameters ask for gradients as the stage's do."""
    return {
        name: _empty(tensor.detach(), dtype).requires_grad_(tensor.requires_grad)
        for name, tensor in (*stage.named_parameters(), *stage.named_buffers())
    }


def _empty(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(META, dtype if tensor.is_floating_point() else None)


def loss(stage: nn.Module, tensors: Mapping[str, Tensor], batch: Any) -> Tensor:
    """The stage's `loss` of a batch on the meta device, with `tensors` in place of its own.

    Raises RuntimeError where the loss asks for values.
    """
    named = {f"stage.{name}": tensor for name, tensor in tensors.items()}
    return torch.func.functional_call(Computing(stage, stage.loss), named, (batch,))


@contextlib.contextmanager
def unchanged(stage: nn.Module) -> Iterator[None]:
    """After it the attributes of the stage's modules, and random numbers, are as they were before."""
    before = [(module, dict(vars(module))) for module in stage.modules()]
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


class Computing(nn.Module):
    """A stage whose forward is `compute`, such as its loss: as functional_call and DDP need it."""

    def __init__(self, stage: nn.Module, compute: Any) -> None:
        super().__init__()
        self.stage, self._compute = stage, compute

    def forward(self, batch: Any) -> Tensor:
        """What `compute` makes of a batch."""
        return self._compute(batch)

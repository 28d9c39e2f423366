"""How much GPU memory one update of a stage holds, found out on the meta device, where nothing is computed.

Loss and gradient run on tensors without data while every storage that comes and goes is counted. On the way
they are told what happens on a GPU: autocast's casts, attention without its square, dropout's byte masks. A
compiled stage is told what the compiler makes of it: masks and casts are made again in the backward pass.
"""

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from digit.nn import cross_entropy
from digit.training.batches import split
from digit.training.flops import loss, tensors_of, unchanged


@dataclass(frozen=True)
class Held:
    """Bytes that loss and gradient of a micro-batch hold beside weights, gradients and moments."""

    activations: int  # kept from the forward pass for the backward pass, bf16 copies of weights included
    working: int  # the most that is held beyond these at any moment: logits and their gradients, chiefly
    copies: int  # of `activations`, the bf16 copies of weights, which shards do not keep
    flops: float  # of a sample's matrix products and convolutions, without the square of attention


def held(
    stage: nn.Module, batch: Any, *, size: int, bf16: bool, compiled: bool, accumulates: bool
) -> Held | None:
    """What a micro-batch of `size` samples holds; `batch` has one sample or more, on any device.

    With `accumulates` the gradients are there before and do not count; without, they come as activations go.
    Neither weights nor buffers nor random numbers change. None where the loss asks for values, which the meta
    device has not.
    """
    part = _pytree.tree_map_only(Tensor, lambda tensor: _repeated(tensor, size), split(batch, 1)[0][0])
    tensors = tensors_of(stage)
    for tensor in tensors.values():
        if tensor.requires_grad and accumulates:
            tensor.grad = torch.empty_like(tensor)  # as after an earlier micro-batch
    counted, gpu = _Counted(), _OnGPU(bf16, compiled)
    try:
        with unchanged(stage), _as_on_a_gpu(gpu), counted:
            value = loss(stage, tensors, part)
            activations = counted.now
            value.backward()
    except RuntimeError as error:
        if "meta" not in str(error).lower():  # what the meta device says when it is asked for values
            raise
        return None
    return Held(activations, counted.peak - activations, gpu.copies, counted.flops / size)


class _Counted(TorchDispatchMode):
    """Counts the bytes of storages that are made inside and not yet gone, and FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(t.untyped_storage()) for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if id(storage) not in given and id(storage) not in self._known:
                self._add(storage)
        return result

    def _add(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextlib.contextmanager
def _as_on_a_gpu(gpu: "_OnGPU") -> Iterator[None]:
    """Inside, meta tensors say that they are on a GPU and functions keep what they would keep there."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"), cross_entropy._Fused
    torch.set_autocast_enabled("cuda", gpu.bf16)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    if gpu.compiled:
        cross_entropy._Fused = _Whole  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with gpu:
            yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
        cross_entropy._Fused = before[2]


GPU, META = torch.device("cuda", 0), torch.device("meta")
PRODUCTS = {F.linear, F.conv2d, F.conv_transpose2d, torch.matmul, Tensor.matmul, torch.einsum, torch.bmm}
IN_FLOAT32 = {
    *(F.cross_entropy, F.mse_loss, F.l1_loss, F.softmax, F.log_softmax, F.group_norm, F.layer_norm),
    *(F.normalize, F.softplus),
}


class _OnGPU(TorchFunctionMode):
    def __init__(self, bf16: bool, compiled: bool) -> None:
        super().__init__()
        self.bf16, self.compiled = bf16, compiled
        self._cast: dict[int, Tensor] = {}  # weights are cast once, as autocast does

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        properties: Any = Tensor  # their types are declared as those of their values
        if func == properties.is_cuda.__get__:
            return True
        if func == properties.device.__get__:
            return GPU
        # What was told GPU above asks for tensors there: they too have no data.
        args, kwargs = _pytree.tree_map_only(torch.device, lambda _: META, (args, kwargs))
        half = self.bf16 and torch.is_autocast_enabled("cuda")
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*(self._half(each) if half else each for each in args[:3]))
        if func is F.dropout:
            share = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            return _Dropout.apply(args[0], share, self.compiled)
        if half and func in PRODUCTS:
            args, kwargs = _pytree.tree_map_only(Tensor, self._half, (args, kwargs))
        elif half and func in IN_FLOAT32:
            if func is F.layer_norm and self.compiled:
                # The compiler keeps the input as it came, and its gain, shift and casts cost nothing.
                return _Recomputed.apply(args[0])
            args, kwargs = _pytree.tree_map_only(Tensor, _single, (args, kwargs))
        return func(*args, **kwargs)

    @property
    def copies(self) -> int:
        """Bytes of weights that were cast."""
        return sum(tensor.nbytes for tensor in self._cast.values())

    def _half(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = tensor.to(torch.bfloat16)
        return self._cast[id(tensor)]


class _Attention(torch.autograd.Function):
    """What flash attention keeps: its inputs, its output and the logarithm of each row's sum."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        b, heads, n, channels = queries.shape
        mixed = queries.new_empty(b, n, heads, channels).transpose(1, 2)
        sums = queries.new_empty(b, heads, n, dtype=torch.float32)
        ctx.save_for_backward(queries, keys, values, mixed, sums)
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


class _Dropout(torch.autograd.Function):
    """Dropout that keeps a mask of a byte a value, or, compiled, makes it again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float, compiled: bool) -> Tensor:
        if share == 0:
            return x.view_as(x)
        if not compiled:
            ctx.save_for_backward(torch.empty_like(x, dtype=torch.bool))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return torch.empty_like(gradient), None, None


class _Recomputed(torch.autograd.Function):
    """A norm that keeps its input in the dtype in which it came."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.empty_like(gradient)


class _Whole(torch.autograd.Function):
    """The compiled loss of a linear head: all logits at once and their gradient, in half precision."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, smoothing: float, counted: Tensor | None
    ) -> Tensor:
        half = F.pad(table.to(hidden.dtype), (0, 0, 0, -len(table) % cross_entropy.ALIGNED))
        gradient = torch.empty_like(hidden @ half.T)
        both = gradient @ half, (gradient.T @ hidden)[: len(table)].float()
        ctx.save_for_backward(*both)
        return hidden.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, table = ctx.saved_tensors
        return torch.empty_like(hidden), torch.empty_like(table), None, None, None


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _repeated(tensor: Tensor, size: int) -> Tensor:
    if tensor.ndim == 0:
        return tensor.to("meta")
    return torch.empty(size, *tensor.shape[1:], dtype=tensor.dtype, device="meta")


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, Tensor)]

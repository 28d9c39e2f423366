"""What trains faster on a GPU than the plain stage: chosen once, by `use`, and assigned to its modules."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from digit import fast
from digit.nn import losses
from digit.nn.transformer import Block, Transformer

ALIGNED = 64  # logits come in multiples of this: products with odd numbers of columns are far slower
PART = 1 << 26  # logits held at a time where nothing is compiled


def use(
    stage: nn.Module, device: torch.device, *, bf16: bool, sharded: bool, kernels: bool = True
) -> str | None:
    """Let a stage train from now on as its device does it fastest; None, or why its blocks have no kernels.

    On a GPU the loss makes its gradient itself, and dropout masks of compiled updates are hashes. With
    `kernels` post-norm blocks run on those of `digit.fast.blocks`: under autocast to bf16, on whole weights.
    """
    trained: Any = stage
    transformers = [module for module in stage.modules() if isinstance(module, Transformer)]
    if device.type == "cuda":
        if hasattr(stage, "cross_entropy"):
            trained.cross_entropy = cross_entropy
        for transformer in transformers:
            hash_dropout(transformer, sharded=sharded)
    reason = _refusal(transformers, device, bf16=bf16, sharded=sharded) if kernels else None
    if kernels and reason is None:
        from digit.fast.blocks import forward

        for transformer in transformers:
            # In the place of the method: an attribute that is a function or None the compiler does not guard.
            transformer.forward = functools.partial(forward, transformer)
    return reason


def _refusal(
    transformers: list[Transformer], device: torch.device, *, bf16: bool, sharded: bool
) -> str | None:
    if not transformers:
        return "this stage has no transformer"
    if any(transformer.config.norm != "post" for transformer in transformers):
        return "they are for post-norm blocks and these are pre-norm"
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return "they need a GPU that computes in bf16"
    if not fast.usable(device):
        return "Triton is not installed"
    if not bf16:
        return "they compute in bf16 and precision is fp32"
    if sharded:
        return "they read whole weights and these are sharded"
    return None


def cross_entropy(
    hidden: Float[Tensor, "r d"],
    table: Float[Tensor, "v d"],
    targets: Int[Tensor, " r"],
    *,
    label_smoothing: float,
    counted: Bool[Tensor, " r"] | None = None,
) -> Float[Tensor, ""]:
    """`nn.losses.cross_entropy` without the logits in float32.

    In training under autocast on a GPU the gradient is made with the loss, in the logits' dtype.
    """
    if not fused(hidden):
        return losses.cross_entropy(hidden, table, targets, label_smoothing=label_smoothing, counted=counted)
    half = torch.get_autocast_dtype("cuda")
    with torch.autocast("cuda", enabled=False):
        return _Fused.apply(hidden.to(half), table, targets, label_smoothing, counted)


def fused(hidden: Tensor) -> bool:
    """Whether the gradient is made with the loss: in training on a GPU under autocast."""
    return hidden.is_cuda and torch.is_grad_enabled() and torch.is_autocast_enabled("cuda")


class _Fused(torch.autograd.Function):
    """Forward makes both gradients but for the factor that backward gets."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, smoothing: float, counted: Tensor | None
    ) -> Tensor:
        rows, real = len(hidden), len(table)
        half = F.pad(table.to(hidden.dtype), (0, 0, 0, -real % ALIGNED))
        count = torch.full((), rows, device=hidden.device) if counted is None else counted.sum()
        size = rows if torch.compiler.is_compiling() else max(1, PART // len(half))
        losses, hidden_gradients, table_gradient = [], [], torch.zeros_like(table, dtype=torch.float32)
        for start in range(0, rows, size):
            part = hidden[start : start + size]
            weights = None if counted is None else counted[start : start + size, None]
            loss, gradient = _loss_and_gradient(
                part @ half.T, targets[start : start + size, None], real, smoothing, weights
            )
            losses.append(loss)
            hidden_gradients.append(gradient @ half)
            table_gradient = table_gradient + (gradient.T @ part)[:real]
        ctx.save_for_backward(torch.cat(hidden_gradients), table_gradient, count)
        return torch.stack(losses).sum() / count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, table, count = ctx.saved_tensors
        factor = gradient / count
        return (hidden * factor).to(hidden.dtype), table * factor, None, None, None


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, real: int, smoothing: float, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The sum of the losses of the first `real` logits of each row, and its gradient in the logits' dtype."""
    column = torch.arange(logits.shape[1], device=logits.device)
    exact = logits.float()
    if real < logits.shape[1]:
        exact = exact.masked_fill(column >= real, float("-inf"))
    logs = exact.log_softmax(1)
    goal = (column == targets) * (1 - smoothing) + smoothing / real
    gradient = logs.exp() - goal
    if real < logits.shape[1]:
        gradient = gradient.masked_fill(column >= real, 0.0)
        logs = logs.masked_fill(column >= real, 0.0)
    losses = -(logs * goal).sum(1, keepdim=True)
    if weights is not None:
        losses, gradient = losses * weights, gradient * weights
    return losses.sum(), gradient.to(logits.dtype)


def hash_dropout(transformer: Transformer, *, sharded: bool) -> None:
    """Put `HashedDropout` in the places of a transformer's dropouts.

    Each of one compiled whole has another first place: all that they had in common the compiler would keep,
    and the masks with it. Of sharded stages each block is a whole of its own, so that one graph serves all.
    """
    transformer.dropout = HashedDropout(transformer.config.dropout, 0)
    block: Block | Any
    for layer, block in enumerate(transformer.blocks):
        first = 1 if sharded else 2 * layer + 1
        block.attention_dropout = HashedDropout(transformer.config.dropout, first)
        block.mlp_dropout = HashedDropout(transformer.config.dropout, first + 1)


class HashedDropout(nn.Dropout):
    """Compiled on a GPU, its mask is a hash of the place and of two numbers drawn per call.

    torch's generator (Philox) spends some hundred integer operations on a value, more time than reading and
    writing it takes. A hash of a dozen, with both its keys from torch's generator, is made anew in the
    backward pass rather than stored.
    """

    def __init__(self, share: float, first: int = 0) -> None:
        super().__init__(share)
        self.first = first  # number of the first place

    def forward(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """x, in training with some values 0 and the others larger to make up for it."""
        if not self.training or self.p == 0:
            return x
        if not hashed(x):
            return F.dropout(x, self.p)
        keys = (torch.rand(2, device=x.device) * (1 << 24)).to(torch.int32)
        return torch.where(kept(x.shape, keys, self.p, first=self.first), x * (1 / (1 - self.p)), 0.0)


def hashed(x: Tensor) -> bool:
    """Whether the mask is a hash: where the compiler makes one kernel of it and what stands around it."""
    return x.is_cuda and torch.compiler.is_compiling()


def kept(shape: torch.Size, keys: Tensor, share: float, *, first: int = 0) -> Tensor:
    """True with probability 1 - share for each place of `shape`, as two int32 keys decide.

    The mixing steps are those of MurmurHash3's 32-bit finaliser (public domain, Austin Appleby), the second
    key between them.
    """
    place = torch.arange(first, first + shape.numel(), dtype=torch.int32, device=keys.device)
    # The key comes before the first product: the compiler folds constants times places beyond int32.
    mixed = (place ^ keys[0] * _signed(0x2C1B3C6D)) * _signed(0x9E3779B1)
    mixed = (mixed ^ ((mixed >> 16) & 0xFFFF)) * _signed(0x85EBCA6B)
    mixed = (mixed ^ ((mixed >> 13) & 0x7FFFF) ^ keys[1] * _signed(0x297A2D39)) * _signed(0xC2B2AE35)
    mixed = mixed ^ ((mixed >> 16) & 0xFFFF)
    return ((mixed & 0xFFFFFF) >= round(share * (1 << 24))).view(shape)


def _signed(value: int) -> int:
    """The int32 of these 32 bits."""
    return value - (1 << 32) if value >> 31 else value

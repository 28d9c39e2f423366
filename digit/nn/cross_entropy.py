"""hidden states -> the mean cross-entropy of a linear head, without the logits in float32."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

ALIGNED = 64  # logits come in multiples of this: products with odd numbers of columns are far slower
PART = 1 << 26  # logits held at a time where nothing is compiled


def cross_entropy(
    hidden: Float[Tensor, "r d"],
    table: Float[Tensor, "v d"],
    targets: Int[Tensor, " r"],
    *,
    label_smoothing: float,
    counted: Bool[Tensor, " r"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the rows of the cross-entropy in nats of the logits `hidden @ table.T`, with label smoothing.

    `counted` says which rows are part of the mean, all if left out; shapes do not depend on how many.
    Training under autocast on a GPU makes the gradient together with the loss, in the logits' dtype;
    elsewhere this is torch's own function on torch's own logits.
    """
    if fused(hidden):
        half = torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", enabled=False):
            return _Fused.apply(hidden.to(half), table, targets, label_smoothing, counted)
    logits = F.linear(hidden, table)
    if counted is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    losses = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    # A weighted mean, not a selection: shapes stay fixed, so that the step compiles whole.
    weights = counted.to(losses.dtype)
    return (losses * weights).sum() / weights.sum()


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

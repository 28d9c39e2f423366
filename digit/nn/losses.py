"""hidden states -> the mean cross-entropy of a linear head."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


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
    """
    logits = F.linear(hidden, table)
    if counted is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    losses = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    # A weighted mean, not a selection: shapes stay fixed, so that the step compiles whole.
    weights = counted.to(losses.dtype)
    return (losses * weights).sum() / weights.sum()

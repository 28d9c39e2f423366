"""Losses between two views: contrast (MoCo v3), balanced assignments and their prediction (iBOT, DINOv2)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def contrast(
    queries: Float[Tensor, "b d"], keys: Float[Tensor, "b d"], temperature: float
) -> tuple[Float[Tensor, ""], Int[Tensor, " b"]]:
    """InfoNCE, row i finding key i by its cosine (arXiv:2104.02057, equation 1); and what each row found."""
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    target = torch.arange(len(keys), device=keys.device)
    return F.cross_entropy(logits, target), logits.argmax(1)


@torch.no_grad()
def balanced(scores: Float[Tensor, "b k"], temperature: float, *, rounds: int = 3) -> Float[Tensor, "b k"]:
    """Assignments of rows to prototypes, each row summing to 1, each prototype used alike over the batch.

    Sinkhorn-Knopp, as DINOv2 has it in place of DINO's centring: no prototype can win all, from the start.
    """
    weights = ((scores - scores.max()) / temperature).exp()  # one constant for all: it cancels
    for _ in range(rounds):
        weights = weights / weights.sum(0, keepdim=True).clamp(min=1e-30)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
    return weights


def prediction(
    scores: Float[Tensor, "*b k"], target: Float[Tensor, "*b k"], temperature: float = 0.1
) -> Float[Tensor, "*b"]:
    """Cross-entropy of softmax(scores / temperature) with assignments `target`, for each row."""
    return -(target * (scores / temperature).log_softmax(-1)).sum(-1)


def masked_mean(values: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Mean over pictures of the mean over each picture's masked places (iBOT, arXiv:2111.07832)."""
    weights = mask.to(values.dtype)
    return ((values * weights).sum(1) / weights.sum(1).clamp(min=1)).mean()


def spread(features: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """KoLeo: minus the mean log distance of each unit vector to its nearest (arXiv:1806.03198)."""
    unit = F.normalize(features, dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    nearest = unit[cosine.detach().argmax(1)]
    return -((unit - nearest).norm(dim=1) + 1e-8).log().mean()

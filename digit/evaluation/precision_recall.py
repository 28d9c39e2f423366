"""features -> precision, recall: shares of each set that lie on the other's manifold (arXiv:1904.06991)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from digit.errors import DigitError


class PrecisionRecall(NamedTuple):
    """Both are shares in [0, 1]."""

    precision: float  # of the generated pictures, inside the reference's manifold: quality
    recall: float  # of the reference pictures, inside the generated one's: variety


def precision_recall(
    reference: Float[Tensor, "m d"], generated: Float[Tensor, "n d"], *, k: int = 3, chunk: int = 2048
) -> PrecisionRecall:
    """Improved precision and recall: a manifold is balls around a set's features, to their k-th neighbours.

    Distances are in float64 on the features' device, `chunk` rows at a time, so nothing of size m x n is
    stored. Both shares depend on m and n: compare only equal sizes (10,000 each is usual). Raises DigitError
    if a set has k or fewer.
    """
    smaller = min(len(reference), len(generated))
    if smaller <= k:
        raise DigitError(f"{smaller} pictures have no {k}-th neighbours: give more pictures")
    # Centred features lose fewer digits in |x|^2 - 2 x y + |y|^2.
    centre = reference.double().mean(0)
    reference, generated = reference.double() - centre, generated.double() - centre
    return PrecisionRecall(
        precision=float(_inside(generated, reference, k, chunk).double().mean()),
        recall=float(_inside(reference, generated, k, chunk).double().mean()),
    )


def _inside(points: Tensor, manifold: Tensor, k: int, chunk: int) -> Bool[Tensor, " n"]:
    # A set's nearest neighbour is the picture itself, so its k-th neighbour is value k + 1.
    radii = torch.cat([_squared(rows, manifold).kthvalue(k + 1).values for rows in manifold.split(chunk)])
    # Equal pictures are at distance 0, but their product says about 1e-13: such a miss must not count as
    # outside.
    rounding = 1e-12 * manifold.square().sum(1).max()
    return torch.cat([(_squared(rows, manifold) <= radii + rounding).any(1) for rows in points.split(chunk)])


def _squared(rows: Tensor, columns: Tensor) -> Tensor:
    norms = rows.square().sum(1)[:, None] + columns.square().sum(1)[None]
    return torch.addmm(norms, rows, columns.T, alpha=-2).clamp_min_(0)

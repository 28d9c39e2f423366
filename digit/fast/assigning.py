"""The form of `nn.nearest.nearest`: float16 products, and float32 ones for the vectors that these leave open.

The error of the float16 products is bounded (Cauchy-Schwarz on what rounding took from both sides), so the
gap between the two best centroids proves nearly all codes right: all but 6 in 1000 on features of a ViT.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.fast.kernels import nearest as kernels
from digit.nn.nearest import nearest as plain

AT_ONCE = 1 << 20  # vectors in float16 at once
_MARKED = 2.0**-15  # relative error of a value that carries a column index in its last 8 mantissa bits
_SUMMED = 2.0**-23  # of the largest product, lost with each addition: tensor cores cut, they do not round


class Halves(NamedTuple):
    """Vectors or centroids rounded to float16."""

    values: Float[Tensor, "m d"]
    lengths: Float[Tensor, " m"]  # of the vectors
    losses: Float[Tensor, " m"]  # lengths of what rounding took


def nearest(
    vectors: Float[Tensor, "m d"], centroids: Float[Tensor, "k d"], squares: Float[Tensor, " k"]
) -> Int[Tensor, " m"]:
    """As the plain function; NotImplemented on GPUs before Hopper, whose tensor cores the kernel needs."""
    if vectors.is_cuda and torch.cuda.get_device_capability(vectors.device) < (9, 0):
        return NotImplemented
    rounded = Halves(*kernels.halve(centroids.contiguous()))
    parts = vectors.contiguous().split(AT_ONCE)
    return torch.cat([_nearest(part, centroids, squares, rounded) for part in parts])


def _nearest(vectors: Tensor, centroids: Tensor, squares: Tensor, rounded: Halves) -> Tensor:
    halves = Halves(*kernels.halve(vectors))
    codes, best, second = kernels.scan(halves.values, rounded.values, squares / 2)
    sure = best - second > slack(halves, rounded, squares, best, second)  # False where float16 overflowed
    codes, rows = codes.long(), torch.nonzero(~sure).flatten()
    if len(rows):
        codes[rows] = plain.plain(vectors[rows], centroids, squares)
    return codes


def slack(
    halves: Halves,
    rounded: Halves,
    squares: Float[Tensor, " k"],
    best: Float[Tensor, " m"],
    second: Float[Tensor, " m"],
) -> Float[Tensor, " m"]:
    """A gap between `best` and `second`, as `scan` gives them, that no rounding can have made."""
    largest, lost = (rounded.lengths + rounded.losses).amax(), rounded.losses.amax()
    summed = halves.values.shape[1] * _SUMMED * largest
    product = halves.losses * largest + halves.lengths * (lost + summed)
    return 2 * (product + 2.0**-20 * squares.max()) + _MARKED * (best.abs() + second.abs())

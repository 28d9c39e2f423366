"""vectors -> the nearest centroid of each by squared distance, without the table of all distances.

On a GPU the products are float16 with float32 sums. Their error is bounded (Cauchy-Schwarz on what rounding
took from both sides), so most rows are proved right by the gap between their two best centroids. For others
the same bound leaves a few centroids that may be nearest, and only those are compared, in float64.
"""

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Precision = Literal["float32", "float16"]

_MARKED = 2.0**-15  # of a value that carries a column in its last 8 bits
_SUMMED = 2.0**-23  # of the largest product, lost with each addition: tensor cores cut, they do not round
_AT_ONCE = 1 << 20  # rows in float16 at once


class Halves(NamedTuple):
    """Vectors rounded to float16."""

    values: Float[Tensor, "m d"]
    lengths: Float[Tensor, " m"]  # of the vectors
    losses: Float[Tensor, " m"]  # lengths of what rounding took


class Rounded(NamedTuple):
    """Centroids in float16."""

    values: Float[Tensor, "k d"]
    largest: Float[Tensor, ""]  # length of one
    lost: Float[Tensor, ""]  # length of what rounding took from one, at most


class Table(NamedTuple):
    """Centroids, and what the search needs of them besides."""

    centroids: Float[Tensor, "k d"]
    squares: Float[Tensor, " k"]  # of their lengths
    rounded: Rounded | None  # where the kernels run


@functools.cache  # what is found does not change, and it is asked for each batch
def has_kernels(device: torch.device, width: int) -> bool:
    """Whether the fused search runs here: a Hopper GPU or newer, Triton, a width that is a multiple of 8."""
    return (
        device.type == "cuda"
        and width % 8 == 0
        and torch.cuda.get_device_capability(device) >= (9, 0)
        and importlib.util.find_spec("triton") is not None
    )


def halve(vectors: Float[Tensor, "m d"]) -> Halves:
    """Vectors rounded to float16 for `nearest`, which does it itself unless they are used again."""
    from digit.fast.kernels.nearest import halve as kernel  # Triton exists on GPU machines only

    if vectors.dtype == torch.float16:
        lengths = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float32)
        return Halves(vectors.contiguous(), lengths, torch.zeros_like(lengths))
    return Halves(*kernel(vectors.contiguous()))


def prepare(centroids: Float[Tensor, "k d"], squares: Float[Tensor, " k"] | None = None) -> Table:
    """Float32 centroids for `nearest`; `squares` takes the place of |c|^2."""
    squares = centroids.square().sum(1) if squares is None else squares
    if not has_kernels(centroids.device, centroids.shape[1]):
        return Table(centroids, squares, None)
    values = centroids.half()
    kept = values.float()
    rounded = Rounded(values, kept.norm(dim=1).amax(), (centroids - kept).norm(dim=1).amax())
    return Table(centroids, squares, rounded)


@torch.no_grad()
def nearest(
    vectors: Float[Tensor, "m d"],
    table: Table,
    *,
    precision: Precision = "float32",
    halves: Halves | None = None,
    chunk: int | None = None,
) -> Int[Tensor, " m"]:
    """Index of the smallest |c|^2 - 2 x.c of each row.

    float32 is exact: what float64 would find, except where float32 cannot tell two centroids apart; of equal
    ones the lowest index. float16 rounds vectors and centroids and adds in float32. `chunk` rows at once.
    """
    if len(vectors) == 0:
        return vectors.new_empty(0, dtype=torch.int64)
    if table.rounded is None:
        room = chunk or rows_at_once(table.centroids)
        return torch.cat([_plain(part, table, precision) for part in vectors.split(room)])
    vectors = vectors.contiguous()
    parts = []
    for start in range(0, len(vectors), chunk or _AT_ONCE):
        part = slice(start, start + (chunk or _AT_ONCE))
        here = halve(vectors[part]) if halves is None else Halves(*(entry[part] for entry in halves))
        parts.append(_screened(vectors[part], here, table, table.rounded, precision))
    return torch.cat(parts)


def rows_at_once(centroids: Float[Tensor, "k d"]) -> int:
    """Rows whose distances to all centroids stay within 16 MiB (CPU) or 1 GiB (GPU)."""
    room = 1 << 22 if centroids.device.type == "cpu" else 1 << 28
    return max(256, room // len(centroids))


def _plain(vectors: Tensor, table: Table, precision: Precision) -> Tensor:
    centroids = table.centroids
    if precision == "float16":
        vectors, centroids = vectors.half(), centroids.half()
    with exact_products(vectors.device):
        return torch.addmm(table.squares, vectors.float(), centroids.float().T, alpha=-2).min(dim=1).indices


def _screened(
    vectors: Tensor, halves: Halves, table: Table, rounded: Rounded, precision: Precision
) -> Tensor:
    """Codes by float16 products, and those that these leave open by others; the host waits for nothing."""
    from digit.fast.kernels.nearest import scan
    from digit.fast.kernels.open_rows import decide, search

    exact = precision == "float32"
    how = {"vectors": vectors, "centroids": table.centroids, "half_squares": table.squares / 2}
    codes, best, second = scan(halves.values, rounded.values, how["half_squares"], second=exact)
    codes = codes.long()
    if exact:
        floor = best - slack(halves, best, second, table.squares, rounded)
        decide(~(second < floor), codes, halves=halves.values, rounded=rounded.values, floor=floor, **how)
    else:
        search(~best.isfinite(), codes, **how)  # what overflows float16
    return codes


def slack(
    halves: Halves,
    best: Float[Tensor, " m"],
    second: Float[Tensor, " m"],
    squares: Float[Tensor, " k"],
    rounded: Rounded,
) -> Float[Tensor, " m"]:
    """A gap between `best` and `second`, as `scan` gives them, that no rounding can have made."""
    summed = rounded.values.shape[1] * _SUMMED * rounded.largest
    product = halves.losses * rounded.largest + halves.lengths * (rounded.lost + summed)
    return 2 * (product + 2.0**-20 * squares.max()) + _MARKED * (best.abs() + second.abs())


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Float32 products without TF32 or autocast: half precision changes one code in fifty to a hundred."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)

"""The nearest centroid of each vector; the scores of all centroids never leave the registers.

The idea of a fused nearest-centroid search is FlashAssign's (flash-kmeans, arXiv:2603.09229).
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


class Tiles(NamedTuple):
    """How the product of vectors and centroids is cut into pieces; chosen by `bench/kmeans.py`."""

    rows: int = 128  # vectors of a tile
    columns: int = 256  # centroids of a tile, a power of two and at most 256
    depth: int = 64  # channels at once
    warps: int = 8
    stages: int = 3  # tiles loaded ahead
    flat: bool = True  # both loops as one, so that loads run ahead over the end of a tile


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _best_two(low_best, low_second, high_best, high_second):
    """The best two of two pairs."""
    best = tl.maximum(low_best, high_best)
    second = tl.maximum(tl.minimum(low_best, high_best), tl.maximum(low_second, high_second))
    return best, second


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _scan(
    vectors,
    centroids,
    half_squares,
    codes,
    best_out,
    second_out,
    count,
    k,
    DEPTHS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    FLAT: tl.constexpr,
):
    """For ROWS vectors the centroid of the largest x.c - |c|^2 / 2, that value, and the second largest."""
    first = tl.program_id(0) * ROWS
    best = tl.full((ROWS,), -3.0e38, tl.float32)
    second = tl.full((ROWS,), -3.0e38, tl.float32)
    code = tl.zeros((ROWS,), tl.int32)
    # The value's last bits hold the column, counted down: one maximum finds both, and of equal gains above
    # zero the lowest index.
    column = tl.arange(0, COLUMNS)
    mark = COLUMNS - 1 - column
    for tile in tl.range(0, tl.cdiv(k, COLUMNS), flatten=FLAT):
        start = tile * COLUMNS
        products = tl.zeros((ROWS, COLUMNS), tl.float32)
        for step in range(DEPTHS):
            x = vectors.load([first, step * DEPTH])
            c = centroids.load([start, step * DEPTH])
            products = tl.dot(x, c.T, products)
        halves = tl.load(half_squares + start + column, mask=start + column < k, other=3.0e38)
        gains = products - halves[None, :]
        bits = (gains.to(tl.int32, bitcast=True) & -COLUMNS) | mark[None, :]
        gains = bits.to(tl.float32, bitcast=True)
        left, right = tl.split(tl.reshape(gains, (ROWS, COLUMNS // 2, 2)))
        here, next_here = tl.reduce(
            (tl.maximum(left, right), tl.minimum(left, right)), axis=1, combine_fn=_best_two
        )
        second = tl.maximum(tl.minimum(best, here), tl.maximum(second, next_here))
        found = start + COLUMNS - 1 - (here.to(tl.int32, bitcast=True) & (COLUMNS - 1))
        code = tl.where(here > best, found, code)
        best = tl.maximum(best, here)
    rows = first + tl.arange(0, ROWS)
    inside = rows < count
    tl.store(codes + rows, code, mask=inside)
    tl.store(best_out + rows, best, mask=inside)
    tl.store(second_out + rows, second, mask=inside)


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _halve(
    vectors, halves, lengths, losses, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    """ROWS vectors in float16, their lengths, and the lengths of what rounding took."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows[:, None] < count) & (columns[None, :] < WIDTH)
    places = rows[:, None] * WIDTH + columns[None, :]
    x = tl.load(vectors + places, mask=inside, other=0.0).to(tl.float32)
    half = x.to(tl.float16)
    tl.store(halves + places, half, mask=inside)
    lost = x - half.to(tl.float32)
    tl.store(lengths + rows, tl.sqrt(tl.sum(x * x, axis=1)), mask=rows < count)
    tl.store(losses + rows, tl.sqrt(tl.sum(lost * lost, axis=1)), mask=rows < count)


def scan(
    vectors: Float[Tensor, "m d"],
    centroids: Float[Tensor, "k d"],
    half_squares: Float[Tensor, " k"],
    *,
    tiles: Tiles = Tiles(),  # noqa: B008  (immutable)
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Index of the largest x.c - |c|^2 / 2 of each vector x, its value, and the second largest value.

    Products of float16 or bfloat16 vectors, sums in float32; the values' last 8 bits are not theirs.
    `half_squares` is |c|^2 / 2 in float32. The width must be a multiple of 8.
    """
    count, width = vectors.shape
    k = len(centroids)
    codes = torch.empty(count, dtype=torch.int32, device=vectors.device)
    best, second = (torch.empty(count, device=vectors.device) for _ in range(2))
    if count:
        _scan[(triton.cdiv(count, tiles.rows),)](
            TensorDescriptor.from_tensor(vectors, [tiles.rows, tiles.depth]),
            TensorDescriptor.from_tensor(centroids, [tiles.columns, tiles.depth]),
            half_squares,
            codes,
            best,
            second,
            count,
            k,
            DEPTHS=triton.cdiv(width, tiles.depth),
            ROWS=tiles.rows,
            COLUMNS=tiles.columns,
            DEPTH=tiles.depth,
            FLAT=tiles.flat,
            num_warps=tiles.warps,  # pyright: ignore[reportCallIssue]
            num_stages=tiles.stages,  # pyright: ignore[reportCallIssue]
        )
    return codes, best, second


def halve(
    vectors: Float[Tensor, "m d"],
) -> tuple[Float[Tensor, "m d"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Vectors in float16, their lengths, and the lengths of what rounding took, in one pass."""
    count, width = vectors.shape
    halves = torch.empty_like(vectors, dtype=torch.float16)
    lengths = torch.empty(count, device=vectors.device)
    losses = torch.empty(count, device=vectors.device)
    block = triton.next_power_of_2(width)
    rows = max(1, 4096 // block)
    if count:
        _halve[(triton.cdiv(count, rows),)](
            vectors, halves, lengths, losses, count, WIDTH=width, BLOCK=block, ROWS=rows
        )
    return halves, lengths, losses

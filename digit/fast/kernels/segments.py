"""The sums of vectors by code, added in one fixed order, and the means that follow from them."""

from typing import no_type_check

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_PIECE = 256  # vectors that one program adds


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _pieces(
    vectors,
    order,
    owner,
    first,
    starts,
    partial,
    k,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The float32 sum of one piece of one code's vectors."""
    piece = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    code = tl.load(owner + piece)
    if code < k:
        begin = tl.load(starts + code) + (piece - tl.load(first + code)) * PIECE
        end = tl.minimum(begin + PIECE, tl.load(starts + code + 1))
        total = tl.zeros((BLOCK,), tl.float32)
        for row in range(begin, end, ROWS):
            places = row + tl.arange(0, ROWS)
            which = tl.load(order + places, mask=places < end, other=0)
            inside = (places < end)[:, None] & (columns < WIDTH)[None, :]
            x = tl.load(vectors + which[:, None] * WIDTH + columns[None, :], mask=inside, other=0.0)
            total += tl.sum(x.to(tl.float32), axis=0)
        tl.store(partial + piece.to(tl.int64) * WIDTH + columns, total, mask=columns < WIDTH)


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _join(partial, first, sums, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Add one code's pieces to its float64 sum."""
    code = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    at = code.to(tl.int64) * WIDTH + columns
    total = tl.load(sums + at, mask=inside, other=0.0)
    for piece in range(tl.load(first + code), tl.load(first + code + 1)):
        total += tl.load(partial + piece * WIDTH + columns, mask=inside, other=0.0).to(tl.float64)
    tl.store(sums + at, total, mask=inside)


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _means(sums, counts, centroids, means_out, losses, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One code's mean, and what its vectors' squared distances to its centroid are beyond their lengths."""
    code = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    count = tl.load(counts + code).to(tl.float64)
    total = tl.load(sums + code * WIDTH + columns, mask=inside, other=0.0)
    centroid = tl.load(centroids + code * WIDTH + columns, mask=inside, other=0.0).to(tl.float64)
    tl.store(losses + code, tl.sum((count * centroid - 2.0 * total) * centroid, 0))
    mean = tl.where(count > 0, total / tl.maximum(count, 1.0), centroid)
    tl.store(means_out + code * WIDTH + columns, mean.to(tl.float32), mask=inside)


def add_segments(
    sums: Float[Tensor, "k d"],
    counts: Int[Tensor, " k"],
    vectors: Float[Tensor, "m d"],
    codes: Int[Tensor, " m"],
) -> None:
    """Add the vectors of each code to its float64 sum, in a fixed order, and their number; nothing waits."""
    k, width = sums.shape
    order, owner, first, starts = plan(codes, k)
    pieces = len(owner)
    block = min(256, triton.next_power_of_2(width))
    partial = torch.empty(pieces, width, device=vectors.device)
    across = triton.cdiv(width, block)
    _pieces[(pieces, across)](
        vectors, order, owner, first, starts, partial, k, WIDTH=width, BLOCK=block, PIECE=_PIECE, ROWS=16
    )
    _join[(k, across)](partial, first, sums, WIDTH=width, BLOCK=block)
    counts += starts.diff()


def means(
    sums: Float[Tensor, "k d"], counts: Int[Tensor, " k"], centroids: Float[Tensor, "k d"]
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """sums / counts in float32, the centroid where there are none; and count |c|^2 - 2 c.sum in float64."""
    k, width = sums.shape
    found = torch.empty_like(centroids)
    losses = torch.empty(k, dtype=torch.float64, device=sums.device)
    _means[(k,)](sums, counts, centroids, found, losses, WIDTH=width, BLOCK=triton.next_power_of_2(width))
    return found, losses


def plan(
    codes: Int[Tensor, " m"], k: int
) -> tuple[Int[Tensor, " m"], Int[Tensor, " p"], Int[Tensor, " k1"], Int[Tensor, " k1"]]:
    """Who adds what.

    Returns:
        The vectors in order of code; the code of each piece (k for those that are not needed); the first
        piece of each code, and the first place of each code in the order, both with their end.
    """
    count, device = len(codes), codes.device
    # Radix sort takes one pass a byte.
    ranked, order = codes.to(torch.int16 if k <= 2**15 else torch.int32).sort(stable=True)
    starts = torch.searchsorted(ranked, torch.arange(k, device=device, dtype=ranked.dtype))
    starts = F.pad(starts, (0, 1), value=count)
    first = torch.zeros(k + 1, dtype=torch.int64, device=device)
    torch.cumsum((starts.diff() + _PIECE - 1) // _PIECE, 0, out=first[1:])
    pieces = count // _PIECE + k  # at most so many
    owner = torch.searchsorted(first[1:], torch.arange(pieces, device=device), right=True)
    return order, owner, first, starts

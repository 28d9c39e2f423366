"""The sums of vectors by code, added in one fixed order."""

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
    """The float64 sum of one code's pieces."""
    code = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    total = tl.zeros((BLOCK,), tl.float64)
    for piece in range(tl.load(first + code), tl.load(first + code + 1)):
        total += tl.load(partial + piece * WIDTH + columns, mask=inside, other=0.0).to(tl.float64)
    tl.store(sums + code.to(tl.int64) * WIDTH + columns, total, mask=inside)


def segment_sums(
    vectors: Float[Tensor, "m d"], codes: Int[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
    """Float64 sum and number of the vectors of each code, the same for the same input; nothing waits."""
    width = vectors.shape[1]
    order, owner, first, starts = plan(codes, k)
    pieces = len(owner)
    block = min(256, triton.next_power_of_2(width))
    partial = torch.empty(pieces, width, device=vectors.device)
    sums = torch.empty(k, width, dtype=torch.float64, device=vectors.device)
    across = triton.cdiv(width, block)
    _pieces[(pieces, across)](
        vectors, order, owner, first, starts, partial, k, WIDTH=width, BLOCK=block, PIECE=_PIECE, ROWS=16
    )
    _join[(k, across)](partial, first, sums, WIDTH=width, BLOCK=block)
    return sums, starts.diff()


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

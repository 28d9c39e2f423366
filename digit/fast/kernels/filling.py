"""Between two passes of the masked renderer: what of the drawn codes stays, and the next input."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor


@triton.jit
@no_type_check
def _sureness(masked, confidence, gumbel, image, i, count, length, noise):
    """Confidence plus noise, float64, of entries of the list of masked positions; infinite beyond its end."""
    here = i < count
    at = tl.load(masked + image * count + i, mask=here, other=0)
    sure = tl.load(confidence + image * count + i, mask=here, other=0.0).to(tl.float64)
    sure += noise * tl.load(gumbel + image * length + at, mask=here, other=0.0)
    return at, tl.where(here, sure, float("inf"))


@triton.jit
@no_type_check
def _settle(
    masked,
    drawn,
    confidence,
    gumbel,
    noise,
    vq_codes,
    still,
    count,
    length,
    left,
    mask,
    block: tl.constexpr,
    others: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, block)
    at, sure = _sureness(masked, confidence, gumbel, image, i, count, length, noise)
    rank = tl.zeros((block,), tl.int32)  # how many are less sure
    for start in range(0, count, others):
        j = start + tl.arange(0, others)
        _, other = _sureness(masked, confidence, gumbel, image, j, count, length, noise)
        less = other[None, :] < sure[:, None]
        less |= (other[None, :] == sure[:, None]) & (j[None, :] < i[:, None])
        rank += tl.sum(less.to(tl.int32), 1)
    here = i < count
    stays = here & (rank < left)
    code = tl.load(drawn + image * count + i, mask=here, other=0)
    tl.store(vq_codes + image * length + at, tl.where(stays, mask, code), mask=here)
    place = tl.cumsum(stays.to(tl.int32), 0) - 1
    tl.store(still + image * left + place, at, mask=stays)


@triton.jit
@no_type_check
def _embed(prefix, table, positions, vq_codes, out, before, length, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    image, place = row // (before + length), row % (before + length)
    c = tl.arange(0, block)
    inside = c < width
    if place < before:
        value = tl.load(prefix + (image * before + place) * width + c, mask=inside, other=0.0)
    else:
        code = tl.load(vq_codes + image * length + place - before)
        value = tl.load(table + code * width + c, mask=inside, other=0.0)
        value += tl.load(positions + (place - before) * width + c, mask=inside, other=0.0)
    tl.store(out + row * width + c, value.to(out.dtype.element_ty), mask=inside)


def settle(
    vq_codes: Int[Tensor, "b m"],
    masked: Int[Tensor, "b n"],
    drawn: Int[Tensor, "b n"],
    *,
    confidence: Float[Tensor, "b n"],
    gumbel: Float[Tensor, "b m"],
    noise: float,
    left: int,
    mask: int,
) -> Int[Tensor, "b l"]:
    """Write what was drawn at the masked positions but the `left` least sure, which are masked again: these.

    Sureness is confidence + noise * gumbel of the position, in float64; of equal ones the first is less sure.
    """
    images, count = masked.shape
    still = masked.new_empty(images, left)
    block = triton.next_power_of_2(count)
    _settle[(images,)](
        masked.contiguous(),
        drawn.contiguous(),
        confidence.contiguous(),
        gumbel.contiguous(),
        noise,
        vq_codes,
        still,
        count,
        vq_codes.shape[1],
        left,
        mask,
        block=block,
        others=min(64, block),
        **{"num_warps": 8 if block >= 256 else 4},
    )
    return still


def embed(
    prefix: Float[Tensor, "b n d"],
    table: Float[Tensor, "v d"],
    positions: Float[Tensor, "m d"],
    vq_codes: Int[Tensor, "b m"],
    dtype: torch.dtype,
) -> Float[Tensor, "b t d"]:
    """The prefix, then table[vq_codes] + positions, in a type of their own."""
    images, before, width = prefix.shape
    length = len(positions)
    out = torch.empty(images, before + length, width, device=prefix.device, dtype=dtype)
    block = triton.next_power_of_2(width)
    _embed[(images * (before + length),)](
        prefix.contiguous(),
        table.contiguous(),
        positions.contiguous(),
        vq_codes,
        out,
        before,
        length,
        width,
        block=block,
        **{"num_warps": 4 if block >= 512 else 1},
    )
    return out

"""What stands between the products of a modulated block: a gated sum with its norm, and the norms of heads.

A program has one row, or one token's heads: their bits do not depend on the rows beside them.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor


@triton.jit
@no_type_check
def _add_modulate(
    x,
    branch,
    gate,
    shift,
    scale,
    out,
    tokens,
    stride,
    width: tl.constexpr,
    block: tl.constexpr,
    eps: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, block)
    inside = c < width
    at, condition = row * width + c, row // tokens * stride + c
    value = tl.load(x + at, mask=inside, other=0.0)
    if branch is not None:
        added = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(gate + condition, mask=inside, other=0.0).to(tl.float32) * added
        tl.store(x + at, value, mask=inside)
    mean = tl.sum(value, axis=0) / width
    centred = tl.where(inside, value - mean, 0.0)
    normal = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / width + eps)
    grown = 1.0 + tl.load(scale + condition, mask=inside, other=0.0).to(tl.float32)
    moved = tl.load(shift + condition, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (normal * grown + moved).to(out.dtype.element_ty), mask=inside)


def add_modulate(
    x: Float[Tensor, "r d"],
    shift: Float[Tensor, "b d"],
    scale: Float[Tensor, "b d"],
    *,
    gate: Float[Tensor, "b d"] | None = None,
    branch: Float[Tensor, "r d"] | None = None,
    dtype: torch.dtype,
    eps: float = 1e-5,
) -> Float[Tensor, "r d"]:
    """LayerNorm(x + gate * branch) * (1 + scale) + shift in `dtype`; x, float32, keeps the sum.

    Each of the b conditions is that of r / b rows one after another. They are columns of one tensor.
    """
    rows, width = x.shape
    out = torch.empty(rows, width, device=x.device, dtype=dtype)
    block: Any = triton.next_power_of_2(width)
    _add_modulate[(rows,)](
        *(x, branch, gate, shift, scale, out, rows // len(shift), shift.stride(0)),
        width=width,
        block=block,
        eps=eps,
        **{"num_warps": max(1, min(8, block // 256))},
    )
    return out


@triton.jit
@no_type_check
def _norm_heads(
    qkv,
    query_gain,
    key_gain,
    heads: tl.constexpr,
    each: tl.constexpr,
    block_h: tl.constexpr,
    block_c: tl.constexpr,
    eps: tl.constexpr,
):
    start = qkv + tl.program_id(0).to(tl.int64) * (3 * heads * each)
    h, c = tl.arange(0, block_h), tl.arange(0, block_c)
    inside = (h < heads)[:, None] & (c < each)[None, :]
    for part in tl.static_range(2):
        at = start + part * heads * each + h[:, None] * each + c[None, :]
        gain = tl.load((key_gain if part else query_gain) + c, mask=c < each, other=0.0)
        value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(value * value, axis=1) / each + eps)
        normal = value * scale[:, None] * gain[None, :]
        tl.store(at, normal.to(qkv.dtype.element_ty), mask=inside)


def norm_heads(
    qkv: Float[Tensor, "r e"],
    query_gain: Float[Tensor, " c"],
    key_gain: Float[Tensor, " c"],
    *,
    heads: int,
    eps: float,
) -> Float[Tensor, "r e"]:
    """Queries and keys of each row and head divided by their root mean square, times the gains; in place."""
    each = len(query_gain)
    _norm_heads[(len(qkv),)](
        *(qkv, query_gain, key_gain),
        heads=heads,
        each=each,
        block_h=triton.next_power_of_2(heads),
        block_c=triton.next_power_of_2(each),
        eps=eps,
        **{"num_warps": 1 if heads * each <= 512 else 4},
    )
    return qkv

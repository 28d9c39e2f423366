"""LayerNorm of rows plus one vector that is the same for all: the bias that a product before it left out."""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor


@triton.jit
@no_type_check
def _norm(x, shift, weight, bias, out, width, eps, block: tl.constexpr, shifted: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, block)
    there = c < width
    value = tl.load(x + row * width + c, mask=there, other=0.0).to(tl.float32)
    if shifted:
        value += tl.load(shift + c, mask=there, other=0.0)
    mean = tl.sum(value, 0) / width
    centred = tl.where(there, value - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    value = centred * scale * tl.load(weight + c, mask=there, other=0.0) + tl.load(
        bias + c, mask=there, other=0.0
    )
    tl.store(out + row * width + c, value.to(out.dtype.element_ty), mask=there)


def norm(
    x: Float[Tensor, "r d"],
    shift: Float[Tensor, " d"] | None,
    weight: Float[Tensor, " d"],
    bias: Float[Tensor, " d"],
    *,
    eps: float,
    out: Float[Tensor, "r d"],
) -> Float[Tensor, "r d"]:
    """`out` = LayerNorm(x + shift), computed in float32; `shift`, `weight` and `bias` are float32."""
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    _norm[(rows,)](
        x,
        bias if shift is None else shift,
        weight,
        bias,
        out,
        width,
        eps,
        block=block,
        shifted=shift is not None,
        **{"num_warps": 4 if block >= 512 else 1},
    )
    return out

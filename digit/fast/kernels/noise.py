"""Gumbel noise within a kernel: the bits of `digit.nn.noise`, where no products are fused with sums."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from triton.language.random import philox_impl

from digit.nn import noise

_LN_2 = tl.constexpr(noise.LN_2)
_SQRT_HALF = tl.constexpr(noise.SQRT_HALF)
_LOG_REST = tl.constexpr(noise.LOG_REST)
_LOG_MANTISSA = tl.constexpr(noise.LOG_MANTISSA)
_DEGREE = tl.constexpr(len(noise.LOG_REST) - 1)  # of both


@triton.jit
@no_type_check
def _polynomial(x, coefficients: tl.constexpr):
    total = tl.zeros_like(x) + coefficients[_DEGREE]
    for i in tl.static_range(_DEGREE):
        total = total * x + coefficients[_DEGREE - 1 - i]
    return total


@triton.jit
@no_type_check
def gumbel(key, place, step, block: tl.constexpr):
    """The noise of the first `block` codes, a multiple of 8; `key` points to two 64-bit numbers.

    A kernel that calls it is launched with enable_fp_fusion=False.
    """
    c0 = (tl.arange(0, block // 8) + 1).to(tl.uint64)
    zero = c0 * 0
    k0, k1 = tl.load(key).to(tl.uint64, bitcast=True), tl.load(key + 1).to(tl.uint64, bitcast=True)
    w0, w1, w2, w3 = philox_impl(c0, zero + place, zero + step, zero, zero + k0, zero + k1)
    pairs = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    a = tl.interleave(pairs.to(tl.uint32), (pairs >> 32).to(tl.uint32)) | 1
    # As `digit.nn.noise.gumbel`, line by line.
    k = tl.minimum((a.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127, 31)
    rest = (tl.full((block,), 2, tl.uint32) << k.to(tl.uint32)) - a
    t = rest.to(tl.float32) * ((126 - k) << 23).to(tl.float32, bitcast=True)
    exponential = (31 - k).to(tl.float32) * _LN_2 + t * _polynomial(t, _LOG_REST)
    bits = exponential.to(tl.int32, bitcast=True)
    e = (bits - _SQRT_HALF) >> 23
    f = (bits - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    return f * _polynomial(f, _LOG_MANTISSA) - e.to(tl.float32) * _LN_2


@triton.jit
@no_type_check
def _write(keys, out, count, block: tl.constexpr):
    key, place, code = tl.program_id(0), tl.program_id(1), tl.arange(0, block)
    row = (key * tl.num_programs(1) + place).to(tl.int64)
    tl.store(out + row * count + code, gumbel(keys + 2 * key, place, 0, block), mask=code < count)


def gumbels(keys: Int[Tensor, "b 2"], places: int, count: int) -> Float[Tensor, "b p n"]:
    """What `digit.nn.noise.gumbels` gives of each key at places 0 to `places` - 1, on the keys' device."""
    out = torch.empty(len(keys), places, count, device=keys.device)
    block = max(8, triton.next_power_of_2(count))
    _write[(len(keys), places)](keys, out, count, block=block, **{"enable_fp_fusion": False})
    return out

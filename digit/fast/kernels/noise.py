"""Gumbel and Gaussian noise by kernels: the bits of `digit.nn.noise`, as no products are fused with sums."""

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
_SINE = tl.constexpr(noise.SINE)
_LOG_DEGREE = tl.constexpr(len(noise.LOG_REST) - 1)  # of both
_SINE_DEGREE = tl.constexpr(len(noise.SINE) - 1)
AT_ONCE = 1024  # normal numbers of a program


@triton.jit
@no_type_check
def _polynomial(x, coefficients: tl.constexpr, degree: tl.constexpr):
    total = tl.zeros_like(x) + coefficients[degree]
    for i in tl.static_range(degree):
        total = total * x + coefficients[degree - 1 - i]
    return total


@triton.jit
@no_type_check
def _pairs(key, place, step, first, block: tl.constexpr):
    """Of words 2 * `first` to 2 * (`first` + `block`) the even ones and the odd ones; 4 divide both."""
    c0 = (first // 4 + tl.arange(0, block // 4) + 1).to(tl.uint64)
    zero = c0 * 0
    k0, k1 = tl.load(key).to(tl.uint64, bitcast=True), tl.load(key + 1).to(tl.uint64, bitcast=True)
    w0, w1, w2, w3 = philox_impl(c0, zero + place, zero + step, zero, zero + k0, zero + k1)
    pairs = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    return pairs.to(tl.uint32), (pairs >> 32).to(tl.uint32)


@triton.jit
@no_type_check
def _exponential(words):
    """As `digit.nn.noise.exponential`, line by line."""
    a = words | 1
    k = tl.minimum((a.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127, 31)
    rest = ((a * 0 + 2) << k.to(tl.uint32)) - a
    t = rest.to(tl.float32) * ((126 - k) << 23).to(tl.float32, bitcast=True)
    return (31 - k).to(tl.float32) * _LN_2 + t * _polynomial(t, _LOG_REST, _LOG_DEGREE)


@triton.jit
@no_type_check
def gumbel(key, place, step, block: tl.constexpr):
    """The noise of the first `block` codes, a multiple of 8; `key` points to two 64-bit numbers.

    A kernel that calls it is launched with enable_fp_fusion=False.
    """
    even, odd = _pairs(key, place, step, 0, block // 2)
    exponential = _exponential(tl.interleave(even, odd))
    bits = exponential.to(tl.int32, bitcast=True)
    e = (bits - _SQRT_HALF) >> 23
    f = (bits - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    return f * _polynomial(f, _LOG_MANTISSA, _LOG_DEGREE) - e.to(tl.float32) * _LN_2


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


@triton.jit
@no_type_check
def _write_gaussians(keys, out, count, block: tl.constexpr):
    """As `digit.nn.noise.gaussians`, line by line."""
    key, start = tl.program_id(0), tl.program_id(1) * block
    even, turned = _pairs(keys + 2 * key, 0, 0, start // 2, block // 2)
    radius = tl.sqrt_rn(_exponential(even) * 2.0)
    quarter, angle = turned >> 30, (turned & 0x3FFFFFFF).to(tl.float32)
    y = angle * 9.313225746154785e-10
    z = 1.0 - y
    sine, cosine = (
        y * _polynomial(y * y, _SINE, _SINE_DEGREE),
        z * _polynomial(z * z, _SINE, _SINE_DEGREE),
    )
    odd, sign = quarter % 2 == 1, tl.where(quarter > 1, -1.0, 1.0)
    first = radius * tl.where(odd, -sine, cosine) * sign
    second = radius * tl.where(odd, cosine, sine) * sign
    at = start + tl.arange(0, block)
    tl.store(out + key.to(tl.int64) * count + at, tl.interleave(first, second), mask=at < count)


def gaussians(keys: Int[Tensor, "b 2"], count: int) -> Float[Tensor, "b n"]:
    """What `digit.nn.noise.gaussians` gives of each key, on the keys' device."""
    out = torch.empty(len(keys), count, device=keys.device)
    _write_gaussians[(len(keys), triton.cdiv(count, AT_ONCE))](
        keys.contiguous(), out, count, block=AT_ONCE, **{"enable_fp_fusion": False}
    )
    return out

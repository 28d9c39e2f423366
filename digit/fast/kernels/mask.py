"""Dropout masks inside kernels: a hash of a seed, a row and a column, made anew wherever it is needed."""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def kept(seed, row, columns, DROPPED: tl.constexpr):
    """True with probability 1 - DROPPED / 2**24 for each of the int32 columns of a row."""
    key = _mixed(seed.to(tl.uint32) + tl.cast(row, tl.uint32))
    return (_mixed((columns.to(tl.uint32) * 0x9E3779B1) ^ key) >> 8) >= DROPPED


@triton.jit
@no_type_check
def _mixed(x):
    """MurmurHash3's 32-bit finaliser (public domain, Austin Appleby)."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)

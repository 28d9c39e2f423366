"""Attention of one new position per row to those before it, reading only the filled part of the cache."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
@no_type_check
def _cached(keys, values, first, t, before, channels: tl.constexpr, block_c: tl.constexpr):
    """Keys and values of the positions t, those of `before` or later left out."""
    c = tl.arange(0, block_c)
    at = (first + t)[:, None] * channels + c[None, :]
    known = (t < before)[:, None] & (c < channels)[None, :]
    kt = tl.load(keys + at, mask=known, other=0.0, eviction_policy="evict_first")
    vt = tl.load(values + at, mask=known, other=0.0, eviction_policy="evict_first")
    return kt.to(tl.float32), vt.to(tl.float32)


@triton.jit
@no_type_check
def _attend(
    qkv,
    keys,
    values,
    key_scales,
    value_scales,
    mixed,
    filled,
    offset,
    length,
    heads: tl.constexpr,
    channels: tl.constexpr,
    block_c: tl.constexpr,
    block: tl.constexpr,
    scale: tl.constexpr,
    scaled: tl.constexpr,
    chained: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    if chained:
        gdc_launch_dependents()
    before = tl.load(filled) + offset  # positions in the cache
    c = tl.arange(0, block_c)
    slot = tl.arange(0, block)
    real = c < channels  # always true where channels are a power of two
    first = (row * heads + head).to(tl.int64) * length
    if chained:
        # The first positions are on their way before the kernel before this one has finished: they were
        # written before the last draw, and that lets nothing begin while it waits.
        kt, vt = _cached(keys, values, first, slot, before, channels, block_c)
        gdc_wait()
    new = qkv + row * 3 * heads * channels + head * channels + c
    q = tl.load(new, mask=real, other=0.0).to(tl.float32) * scale
    k = tl.load(new + heads * channels, mask=real, other=0.0).to(tl.float32)
    v = tl.load(new + 2 * heads * channels, mask=real, other=0.0).to(tl.float32)
    place = (first + before) * channels + c
    if scaled:  # 8-bit numbers with one scale per vector
        k_scale = (tl.maximum(tl.max(tl.abs(k), 0), 1e-3) / 448.0).to(key_scales.dtype.element_ty)
        v_scale = (tl.maximum(tl.max(tl.abs(v), 0), 1e-3) / 448.0).to(key_scales.dtype.element_ty)
        tl.store(keys + place, (k / k_scale.to(tl.float32)).to(keys.dtype.element_ty), mask=real)
        tl.store(values + place, (v / v_scale.to(tl.float32)).to(values.dtype.element_ty), mask=real)
        tl.store(key_scales + first + before, k_scale)
        tl.store(value_scales + first + before, v_scale)
    else:
        tl.store(keys + place, k.to(keys.dtype.element_ty), mask=real)
        tl.store(values + place, v.to(values.dtype.element_ty), mask=real)
    # Each of `block` slots keeps a softmax of its own over the positions it sees: nothing crosses threads
    # inside the loop but the products of one position. Slot 0 begins with the new position itself.
    own = tl.sum(q * k, 0)
    top = tl.where(slot == 0, own, float("-inf"))
    total = tl.where(slot == 0, 1.0, 0.0)
    sums = tl.where(slot[:, None] == 0, v[None, :], 0.0)
    for start in range(0, before, block):
        t = start + slot
        there = t < before
        if not chained:
            kt, vt = _cached(keys, values, first, t, before, channels, block_c)
        score = tl.sum(q[None, :] * kt, 1)
        if scaled:
            score *= tl.load(key_scales + first + t, mask=there, other=0.0).to(tl.float32)
        score = tl.where(there, score, float("-inf"))
        now = tl.maximum(top, score)
        safe = tl.where(now == float("-inf"), 0.0, now)
        fade, weight = tl.exp2(top - safe), tl.exp2(score - safe)
        total = total * fade + weight
        if scaled:
            weight *= tl.load(value_scales + first + t, mask=there, other=0.0).to(tl.float32)
        sums = sums * fade[:, None] + weight[:, None] * vt
        top = now
        if chained:
            kt, vt = _cached(keys, values, first, t + block, before, channels, block_c)
    peak = tl.max(top, 0)
    share = tl.exp2(top - peak)
    result = tl.sum(sums * share[:, None], 0) / tl.sum(total * share, 0)
    place = row * heads * channels + head * channels + c
    tl.store(mixed + place, result.to(mixed.dtype.element_ty), mask=real)


def tile(scaled: bool) -> tuple[int, int]:
    """Positions at once and warps; one choice for any number of rows, as the order of sums follows from it.

    Of several that were measured on an H200 the fastest for many rows that is also fast for one.
    """
    return (16, 2) if scaled else (16, 4)


def attend(
    qkv: Float[Tensor, "b e"],
    keys: Tensor,
    values: Tensor,
    mixed: Float[Tensor, "b d"],
    filled: Int[Tensor, ""],
    *,
    offset: int = 0,
    scales: tuple[Tensor, Tensor] | None = None,
    chained: bool = False,
) -> None:
    """Write a new position's keys and values behind `filled + offset` others, and attend to all into `mixed`.

    `filled` lies on the device, so that one captured graph serves every position. Keys and values are
    (b, heads, length, channels), in 8 bits with `scales` of (b, heads, length) each.
    """
    rows, heads, length, channels = keys.shape
    block, warps = tile(scales is not None)
    key_scales, value_scales = scales if scales is not None else (keys, values)
    _attend[(rows, heads)](
        qkv,
        keys,
        values,
        key_scales,
        value_scales,
        mixed,
        filled,
        offset,
        length,
        heads=heads,
        channels=channels,
        block_c=triton.next_power_of_2(channels),
        block=block,
        scale=1.4426950408889634 * channels**-0.5,
        scaled=scales is not None,
        chained=chained,
        **{"num_warps": warps, "enable_fp_fusion": False},
        **({"launch_pdl": True} if chained and torch.version.cuda else {}),
    )

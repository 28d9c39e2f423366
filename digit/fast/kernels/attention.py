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
def _cached(
    keys,
    values,
    key_scales,
    value_scales,
    first,
    start,
    before,
    channels: tl.constexpr,
    block_c: tl.constexpr,
    block: tl.constexpr,
    ahead: tl.constexpr,
    scaled: tl.constexpr,
):
    """Of `ahead` blocks of positions from `start` on: keys, values, scales, and which are before `before`."""
    c = tl.arange(0, block_c)
    tiles = ()
    for number in tl.static_range(ahead):
        t = start + number * block + tl.arange(0, block)
        at, there = (first + t)[:, None] * channels + c[None, :], t < before
        known = there[:, None] & (c < channels)[None, :]
        key = tl.load(keys + at, mask=known, other=0.0, eviction_policy="evict_first")
        value = tl.load(values + at, mask=known, other=0.0, eviction_policy="evict_first")
        key_scale, value_scale = 1.0, 1.0
        if scaled:
            key_scale = tl.load(key_scales + first + t, mask=there, other=0.0)
            value_scale = tl.load(value_scales + first + t, mask=there, other=0.0)
        tiles += ((key, value, key_scale, value_scale, there),)
    return tiles


@triton.jit
@no_type_check
def _seen(q, tiles, top, total, sums, ahead: tl.constexpr, scaled: tl.constexpr):
    """The slots' softmax after blocks of positions: their largest scores, sums of weights and of values.

    A position that is not there changes nothing, to the bit.
    """
    for number in tl.static_range(ahead):
        key, value, key_scale, value_scale, there = tiles[number]
        score = tl.sum(q[None, :] * key.to(tl.float32), 1)
        if scaled:
            score *= key_scale.to(tl.float32)
        score = tl.where(there, score, float("-inf"))
        now = tl.maximum(top, score)
        safe = tl.where(now == float("-inf"), 0.0, now)
        fade, weight = tl.exp2(top - safe), tl.exp2(score - safe)
        total = total * fade + weight
        if scaled:
            weight *= value_scale.to(tl.float32)
        sums = sums * fade[:, None] + weight[:, None] * value.to(tl.float32)
        top = now
    return top, total, sums


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
    ahead: tl.constexpr,
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
    # In a chain the first positions are on their way before the kernel before this one has ended: they were
    # written before the last draw, and that lets nothing begin while it waits.
    tiles = _cached(
        keys, values, key_scales, value_scales, first, 0, before, channels, block_c, block, ahead, scaled
    )
    if chained:
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
    top, total, sums = _seen(q, tiles, top, total, sums, ahead, scaled)
    for start in range(ahead * block, before, ahead * block):
        tiles = _cached(
            keys,
            values,
            key_scales,
            value_scales,
            first,
            start,
            before,
            channels,
            block_c,
            block,
            ahead,
            scaled,
        )
        top, total, sums = _seen(q, tiles, top, total, sums, ahead, scaled)
    peak = tl.max(top, 0)
    share = tl.exp2(top - peak)
    result = tl.sum(sums * share[:, None], 0) / tl.sum(total * share, 0)
    place = row * heads * channels + head * channels + c
    tl.store(mixed + place, result.to(mixed.dtype.element_ty), mask=real)


AHEAD = 8  # blocks of positions that are read at once where programs are too few to wait for one another


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
        ahead=AHEAD if rows * heads < 512 else 1,
        scale=1.4426950408889634 * channels**-0.5,
        scaled=scales is not None,
        chained=chained,
        **{"num_warps": warps, "enable_fp_fusion": False},
        **({"launch_pdl": True} if chained and torch.version.cuda else {}),
    )

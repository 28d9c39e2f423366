"""Attention of one new position per row to those before it, reading only the filled part of the cache.

A row has the same bits whatever rows stand beside it: positions are taken by windows of WINDOW, each with a
softmax of its own, and these are joined in order. Of many rows one program goes through all windows; of few
each window has a program, and the last of them to be done joins.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

WINDOW = 128  # positions
BLOCK = 16  # positions, each of a slot
PAIRS = 512  # pairs of row and head from which on programs are enough without one for each window


@triton.jit
@no_type_check
def _cached(
    keys,
    values,
    key_scales,
    value_scales,
    start,
    end,
    channels: tl.constexpr,
    block_c: tl.constexpr,
    block: tl.constexpr,
    blocks: tl.constexpr,
    scaled: tl.constexpr,
):
    """Of so many blocks of positions from `start` on: keys, values, scales, and which are before `end`."""
    c = tl.arange(0, block_c)
    tiles = ()
    for number in tl.static_range(blocks):
        t = start + number * block + tl.arange(0, block)
        at, there = t[:, None] * channels + c[None, :], t < end
        known = there[:, None] & (c < channels)[None, :]
        key = tl.load(keys + at, mask=known, other=0.0, eviction_policy="evict_first")
        value = tl.load(values + at, mask=known, other=0.0, eviction_policy="evict_first")
        key_scale, value_scale = 1.0, 1.0
        if scaled:
            key_scale = tl.load(key_scales + t, mask=there, other=0.0)
            value_scale = tl.load(value_scales + t, mask=there, other=0.0)
        tiles += ((key, value, key_scale, value_scale, there),)
    return tiles


@triton.jit
@no_type_check
def _seen(q, tiles, tops, totals, sums, blocks: tl.constexpr, scaled: tl.constexpr):
    """The slots' softmax after blocks of positions: their largest scores, sums of weights and of values.

    A position that is not there changes nothing, to the bit.
    """
    for number in tl.static_range(blocks):
        key, value, key_scale, value_scale, there = tiles[number]
        score = tl.sum(q[None, :] * key.to(tl.float32), 1)
        if scaled:
            score *= key_scale.to(tl.float32)
        score = tl.where(there, score, float("-inf"))
        now = tl.maximum(tops, score)
        safe = tl.where(now == float("-inf"), 0.0, now)
        fade, weight = tl.exp2(tops - safe), tl.exp2(score - safe)
        totals = totals * fade + weight
        if scaled:
            weight *= value_scale.to(tl.float32)
        sums = sums * fade[:, None] + weight[:, None] * value.to(tl.float32)
        tops = now
    return tops, totals, sums


@triton.jit
@no_type_check
def _over_slots(tops, totals, sums):
    """The softmax over what all slots have seen: its largest score, sum of weights, and sums of values.

    Added up in float64, where the order, which is another with another number of warps, is lost in rounding.
    """
    top = tl.max(tops, 0)
    share = tl.exp2(tops - top)
    total = tl.sum((totals * share).to(tl.float64), 0)
    return top, total.to(tl.float32), tl.sum((sums * share[:, None]).to(tl.float64), 0).to(tl.float32)


@triton.jit
@no_type_check
def _joined(top, total, sums, next_top, next_total, next_sums):
    """The softmax over the positions of two windows."""
    now = tl.maximum(top, next_top)
    fade, share = tl.exp2(top - now), tl.exp2(next_top - now)
    return now, total * fade + next_total * share, sums * fade + next_sums * share


@triton.jit
@no_type_check
def _attend(
    qkv,
    keys,
    values,
    key_scales,
    value_scales,
    mixed,
    partial,
    arrived,
    filled,
    offset,
    length,
    heads: tl.constexpr,
    channels: tl.constexpr,
    block_c: tl.constexpr,
    block: tl.constexpr,
    blocks: tl.constexpr,
    window: tl.constexpr,
    spread: tl.constexpr,
    scale: tl.constexpr,
    scaled: tl.constexpr,
    chained: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    if chained:
        gdc_launch_dependents()
    before = tl.load(filled) + offset  # positions in the cache
    begin = tl.program_id(2) * window
    if (begin > 0) & (begin >= before):
        return
    c, slot = tl.arange(0, block_c), tl.arange(0, block)
    real = c < channels  # always true where channels are a power of two
    pair = row * heads + head
    keys += pair.to(tl.int64) * length * channels
    values += pair.to(tl.int64) * length * channels
    if scaled:
        key_scales += pair.to(tl.int64) * length
        value_scales += pair.to(tl.int64) * length
    end = tl.minimum(before, begin + window)
    if spread:
        # In a chain they are on their way before the kernel before this one has ended: they were written
        # before the last draw, and that lets nothing begin while it waits.
        tiles = _cached(
            keys, values, key_scales, value_scales, begin, end, channels, block_c, block, blocks, scaled
        )
    if chained:
        gdc_wait()
    new = qkv + row * 3 * heads * channels + head * channels + c
    q = tl.load(new, mask=real, other=0.0).to(tl.float32) * scale
    k = tl.load(new + heads * channels, mask=real, other=0.0).to(tl.float32)
    v = tl.load(new + 2 * heads * channels, mask=real, other=0.0).to(tl.float32)
    if begin == 0:
        place = before * channels + c
        if scaled:  # 8-bit numbers with one scale per vector
            k_scale = (tl.maximum(tl.max(tl.abs(k), 0), 1e-3) / 448.0).to(key_scales.dtype.element_ty)
            v_scale = (tl.maximum(tl.max(tl.abs(v), 0), 1e-3) / 448.0).to(key_scales.dtype.element_ty)
            tl.store(keys + place, (k / k_scale.to(tl.float32)).to(keys.dtype.element_ty), mask=real)
            tl.store(values + place, (v / v_scale.to(tl.float32)).to(values.dtype.element_ty), mask=real)
            tl.store(key_scales + before, k_scale)
            tl.store(value_scales + before, v_scale)
        else:
            tl.store(keys + place, k.to(keys.dtype.element_ty), mask=real)
            tl.store(values + place, v.to(values.dtype.element_ty), mask=real)
    # Each of `block` slots keeps a softmax of its own over the positions it sees: within a window nothing
    # crosses threads but the products of one position. Slot 0 of the first begins with the new position.
    # Its score is added up in float64: its channels lie in other threads with another number of warps.
    own = (slot == 0) & (begin == 0)
    score = tl.sum((q * k).to(tl.float64), 0).to(tl.float32)
    tops, totals = tl.where(own, score, float("-inf")), tl.where(own, 1.0, 0.0)
    sums = tl.where(own[:, None], v[None, :], 0.0)
    if spread:
        tops, totals, sums = _seen(q, tiles, tops, totals, sums, blocks, scaled)
    else:
        for start in range(0, end, blocks * block):
            tiles = _cached(
                keys, values, key_scales, value_scales, start, end, channels, block_c, block, blocks, scaled
            )
            tops, totals, sums = _seen(q, tiles, tops, totals, sums, blocks, scaled)
    top, total, result = _over_slots(tops, totals, sums)
    if spread:
        active = tl.cdiv(tl.maximum(before, 1), window)
        done = active == 1
        if active > 1:
            size: tl.constexpr = block_c + 4  # sums, weight and score of a window, and room to align them
            there = partial + (pair * tl.num_programs(2) + tl.program_id(2)) * size
            tl.store(there + c, result)
            tl.store(there + block_c, total)
            tl.store(there + block_c + 1, top)
            tl.debug_barrier()
            done = tl.atomic_add(arrived + pair, 1, sem="acq_rel") == active - 1
            if done:
                tl.store(arrived + pair, 0)
                there = partial + pair * tl.num_programs(2) * size
                result = tl.load(there + c, cache_modifier=".cg")
                total = tl.load(there + block_c, cache_modifier=".cg")
                top = tl.load(there + block_c + 1, cache_modifier=".cg")
                for _ in range(1, active):
                    there += size
                    next_result = tl.load(there + c, cache_modifier=".cg")
                    next_total = tl.load(there + block_c, cache_modifier=".cg")
                    next_top = tl.load(there + block_c + 1, cache_modifier=".cg")
                    top, total, result = _joined(top, total, result, next_top, next_total, next_result)
        if not done:
            return
    else:
        for start in range(window, before, window):
            end = tl.minimum(before, start + window)
            tops, totals = tl.full((block,), float("-inf"), tl.float32), tl.zeros((block,), tl.float32)
            sums = tl.zeros((block, block_c), tl.float32)
            for at in range(start, end, blocks * block):
                tiles = _cached(
                    keys, values, key_scales, value_scales, at, end, channels, block_c, block, blocks, scaled
                )
                tops, totals, sums = _seen(q, tiles, tops, totals, sums, blocks, scaled)
            top, total, result = _joined(top, total, result, *_over_slots(tops, totals, sums))
    tl.store(mixed + pair * channels + c, (result / total).to(mixed.dtype.element_ty), mask=real)


def warps(numbers: int, itemsize: int) -> int:
    """For a block of so many numbers: as many as read 16 bytes in each thread, four at most.

    With more a thread would read less, and the sum over a position's channels have another order.
    """
    return max(1, min(4, numbers * itemsize // (16 * 32)))


def attend(
    qkv: Float[Tensor, "b e"],
    keys: Tensor,
    values: Tensor,
    mixed: Float[Tensor, "b d"],
    filled: Int[Tensor, ""],
    *,
    arrived: Int[Tensor, " p"],
    offset: int = 0,
    scales: tuple[Tensor, Tensor] | None = None,
    chained: bool = False,
) -> None:
    """Write a new position's keys and values behind `filled + offset` others, and attend to all into `mixed`.

    `filled` lies on the device, so that one captured graph serves every position. Keys and values are
    (b, heads, length, channels), in 8 bits with `scales` of (b, heads, length) each. `arrived` are zeros, one
    for each pair of row and head where these are fewer than PAIRS; a call leaves zeros.
    """
    rows, heads, length, channels = keys.shape
    key_scales, value_scales = scales if scales is not None else (keys, values)
    spread = rows * heads < PAIRS
    block_c: Any = triton.next_power_of_2(channels)
    windows = (length + WINDOW - 1) // WINDOW if spread else 1
    partial = keys.new_empty(rows * heads * windows * (block_c + 4) if spread else 0, dtype=torch.float32)
    _attend[(rows, heads, windows)](
        qkv,
        keys,
        values,
        key_scales,
        value_scales,
        mixed,
        partial,
        arrived,
        filled,
        offset,
        length,
        heads=heads,
        channels=channels,
        block_c=block_c,
        block=BLOCK,
        blocks=WINDOW // BLOCK if spread else 1 if scales is None else 2,
        window=WINDOW,
        spread=spread,
        scale=1.4426950408889634 * channels**-0.5,
        scaled=scales is not None,
        chained=chained,
        **{"num_warps": warps(BLOCK * block_c, keys.itemsize) if spread else 1, "enable_fp_fusion": False},
        **({"launch_pdl": True} if chained and torch.version.cuda else {}),
    )

"""Attention of all positions to all, for lengths a little above a multiple of a block.

Such as 256 patches and a class token. What whole blocks of keys leave is a block of a size of its own, and
only it is masked; what whole blocks of queries leave is another. Queries, keys and values are read where the
product wrote them.
"""

from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


class Tiles(NamedTuple):
    """How a head is cut into pieces; rows, rest and columns are powers of two."""

    rows: int = 64  # queries of a block, at least 64
    rest: int = 64  # queries of the block that whole ones leave, at least; more if these are more
    columns: int = 64  # keys of a block
    warps: int = 4
    stages: int = 3  # blocks of keys on their way at once


@triton.jit
@no_type_check
def _rows(
    source, strides, row, head, start, real, size: tl.constexpr, channels: tl.constexpr, width: tl.constexpr
):
    """Positions from `start` on, through registers: on their way while a loop over whole blocks runs."""
    t, c = tl.arange(0, size)[:, None], tl.arange(0, width)[None, :]
    first = source + row.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1] + start * strides[2]
    return tl.load(first + t * strides[2] + c, mask=(t < real) & (c < channels), other=0.0)


@triton.jit
@no_type_check
def _step(
    x,
    k,
    v,
    sums,
    total,
    top,
    left: tl.constexpr,
    turned: tl.constexpr,
    scale: tl.constexpr,
):
    """A block of keys more, or the `left` that are fewer, in a softmax of base 2.

    The product's instructions take 64 rows or more but any number of columns, so a small block of queries is
    its columns: `turned`.
    """
    axis: tl.constexpr = 0 if turned else 1
    scores = tl.dot(k, x.T) if turned else tl.dot(x, k.T)
    if left < k.shape[0]:
        there = tl.expand_dims(tl.arange(0, k.shape[0]) < left, 1 - axis)
        scores = tl.where(there, scores, float("-inf"))
    now = tl.maximum(top, tl.max(scores, axis) * scale)
    weights = tl.exp2(scores * scale - tl.expand_dims(now, axis))
    fade = tl.exp2(top - now)
    total = total * fade + tl.sum(weights, axis)
    weights = weights.to(v.dtype)
    sums *= tl.expand_dims(fade, axis)
    return tl.dot(v.T, weights, sums) if turned else tl.dot(weights, v, sums), total, now


@triton.jit
@no_type_check
def _block(
    q,
    k,
    v,
    last_k,
    last_v,
    mixed,
    row,
    head,
    start,
    keys: tl.constexpr,
    scale: tl.constexpr,
    stages: tl.constexpr,
):
    """A block of queries and all keys."""
    rows: tl.constexpr = q.block_shape[2]
    width: tl.constexpr = q.block_shape[3]
    columns: tl.constexpr = k.block_shape[2]
    turned: tl.constexpr = rows < 64
    whole: tl.constexpr = keys // columns
    left: tl.constexpr = keys % columns
    x = q.load([row, head, start, 0]).reshape(rows, width)
    top = tl.full((rows,), float("-inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    sums = tl.zeros((width, rows) if turned else (rows, width), tl.float32)
    for i in tl.range(whole, num_stages=stages):
        some_k = k.load([row, head, i * columns, 0]).reshape(columns, width)
        some_v = v.load([row, head, i * columns, 0]).reshape(columns, width)
        sums, total, top = _step(x, some_k, some_v, sums, total, top, columns, turned, scale)
    if left > 0:
        sums, total, top = _step(x, last_k, last_v, sums, total, top, left, turned, scale)
    value = sums / tl.expand_dims(total, 0 if turned else 1)
    value = (value.T if turned else value).to(mixed.dtype)
    mixed.store([row, start, head, 0], value.reshape(1, rows, 1, width))


@triton.jit
@no_type_check
def _mix(
    q,
    rest_q,
    k,
    v,
    mixed,
    rest_mixed,
    all_k,
    all_v,
    k_strides,
    v_strides,
    heads,
    queries,
    parts,
    keys: tl.constexpr,
    channels: tl.constexpr,
    last: tl.constexpr,
    scale: tl.constexpr,
    stages: tl.constexpr,
):
    part, pair = tl.program_id(0) % parts, tl.program_id(0) // parts
    row, head = pair // heads, pair % heads
    rows: tl.constexpr = q.block_shape[2]
    width: tl.constexpr = q.block_shape[3]
    columns: tl.constexpr = k.block_shape[2]
    full: tl.constexpr = keys // columns * columns
    whole = queries // rows
    last_k, last_v = None, None
    if full < keys:
        last_k = _rows(all_k, k_strides, row, head, full, keys - full, last, channels, width)
        last_v = _rows(all_v, v_strides, row, head, full, keys - full, last, channels, width)
    if part < whole:
        _block(q, k, v, last_k, last_v, mixed, row, head, part * rows, keys, scale, stages)
    else:
        _block(rest_q, k, v, last_k, last_v, rest_mixed, row, head, whole * rows, keys, scale, stages)


def tile(keys: int) -> Tiles:
    """The fastest measured on an H200, at 261 keys and at 513 (`bench/attention.py --sweep`)."""
    return Tiles(columns=32, rest=16) if keys < 384 else Tiles()


def _power(size: int) -> int:
    """The least power of two from a size on that products take."""
    return max(16, 1 << (size - 1).bit_length())


def full_attention(
    queries: Float[Tensor, "b h n c"],
    keys: Float[Tensor, "b h t c"],
    values: Float[Tensor, "b h t c"],
    *,
    tiles: Tiles | None = None,
) -> Float[Tensor, "b n d"]:
    """The values mixed by softmax(queries keys^T / sqrt(c)), heads side by side: (b, n, h c), contiguous.

    Sums and the softmax are float32; its weights are rounded to the values' type. The last stride is 1, the
    others are multiples of 16 bytes, as is every address.
    """
    b, heads, n, channels = queries.shape
    t = keys.shape[2]
    mixed = torch.empty(b, n, heads, channels, dtype=queries.dtype, device=queries.device)
    rows, rest, columns, warps, stages = tile(t) if tiles is None else tiles
    rest, last, parts = max(rest, _power(n % rows)), _power(t % columns), triton.cdiv(n, rows)

    def blocks(tensor: Tensor, *sizes: int) -> Any:
        return TensorDescriptor.from_tensor(tensor, [*sizes, _power(channels)])

    if mixed.numel():
        _mix[(parts * b * heads,)](
            blocks(queries, 1, 1, rows),
            blocks(queries, 1, 1, rest),
            blocks(keys, 1, 1, columns),
            blocks(values, 1, 1, columns),
            blocks(mixed, 1, rows, 1),
            blocks(mixed, 1, rest, 1),
            keys,
            values,
            keys.stride(),
            values.stride(),
            heads,
            n,
            parts,
            keys=t,
            channels=channels,
            last=last,
            scale=1.4426950408889634 * channels**-0.5,
            stages=stages,
            **{"num_warps": warps},
        )
    return mixed.flatten(2)

"""Attention of all positions to all, for lengths a little above a multiple of a block.

Such as 256 patches and a class token. What whole blocks of keys leave is a block of a size of its own, and
only it is masked. Queries, keys and values are read where the product wrote them.
"""

import math
from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


class Tiles(NamedTuple):
    """How a head is cut into pieces; rows and columns are powers of two."""

    rows: int = 64  # queries of a block, at least 64
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
def _step(x, k, v, sums, total, top, left: tl.constexpr, scale: tl.constexpr):
    """A block of keys more, or the `left` that are fewer, in a softmax of base 2."""
    scores = tl.dot(x, k.T)
    if left < k.shape[0]:
        scores = tl.where(tl.arange(0, k.shape[0])[None, :] < left, scores, float("-inf"))
    now = tl.maximum(top, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - now[:, None])
    fade = tl.exp2(top - now)
    total = total * fade + tl.sum(weights, 1)
    return tl.dot(weights.to(v.dtype), v, sums * fade[:, None]), total, now


@triton.jit
@no_type_check
def _mix(
    q,
    k,
    v,
    mixed,
    all_k,
    all_v,
    k_strides,
    v_strides,
    heads,
    parts,
    keys: tl.constexpr,
    channels: tl.constexpr,
    last: tl.constexpr,
    shrink: tl.constexpr,
    scale: tl.constexpr,
    stages: tl.constexpr,
):
    """A block of queries and all keys; what a block has beyond the last query is not written."""
    part, pair = tl.program_id(0) % parts, tl.program_id(0) // parts
    row, head = pair // heads, pair % heads
    rows: tl.constexpr = q.block_shape[2]
    width: tl.constexpr = q.block_shape[3]
    columns: tl.constexpr = k.block_shape[2]
    left: tl.constexpr = keys % columns
    if left > 0:
        last_k = _rows(all_k, k_strides, row, head, keys - left, left, last, channels, width)
        last_v = _rows(all_v, v_strides, row, head, keys - left, left, last, channels, width)
    x = q.load([row, head, part * rows, 0]).reshape(rows, width)
    # By a power of two, which is exact. What is computed stays in registers, where a product may read it
    # again and again; what is loaded is read from shared memory, whose rate would be the limit.
    x = (x * shrink).to(x.dtype)
    top = tl.full((rows,), float("-inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    sums = tl.zeros((rows, width), tl.float32)
    for i in tl.range(keys // columns, num_stages=stages):
        some_k = k.load([row, head, i * columns, 0]).reshape(columns, width)
        some_v = v.load([row, head, i * columns, 0]).reshape(columns, width)
        sums, total, top = _step(x, some_k, some_v, sums, total, top, columns, scale)
    if left > 0:
        sums, total, top = _step(x, last_k, last_v, sums, total, top, left, scale)
    value = (sums / total[:, None]).to(mixed.dtype)
    mixed.store([row, part * rows, head, 0], value.reshape(1, rows, 1, width))


def _power(size: int) -> int:
    """The least power of two from a size on that products take."""
    return max(16, 1 << (size - 1).bit_length())


def full_attention(
    queries: Float[Tensor, "b h n c"],
    keys: Float[Tensor, "b h t c"],
    values: Float[Tensor, "b h t c"],
    *,
    tiles: Tiles = Tiles(),  # noqa: B008  (immutable)
) -> Float[Tensor, "b n d"]:
    """The values mixed by softmax(queries keys^T / sqrt(c)), heads side by side: (b, n, h c), contiguous.

    Sums and the softmax are float32; its weights are rounded to the values' type. The last stride is 1, the
    others are multiples of 16 bytes, as is every address.
    """
    b, heads, n, channels = queries.shape
    t = keys.shape[2]
    mixed = torch.empty(b, n, heads, channels, dtype=queries.dtype, device=queries.device)
    rows, columns, warps, stages = tiles
    parts = triton.cdiv(n, rows)
    shrink = 2.0 ** -round(math.log2(channels) / 2)  # all of the scale where channels are a power of four

    def blocks(tensor: Tensor, *sizes: int) -> Any:
        return TensorDescriptor.from_tensor(tensor, [*sizes, _power(channels)])

    if mixed.numel():
        _mix[(parts * b * heads,)](
            blocks(queries, 1, 1, rows),
            blocks(keys, 1, 1, columns),
            blocks(values, 1, 1, columns),
            blocks(mixed, 1, rows, 1),
            keys,
            values,
            keys.stride(),
            values.stride(),
            heads,
            parts,
            keys=t,
            channels=channels,
            last=_power(t % columns),
            shrink=shrink,
            scale=math.log2(math.e) * channels**-0.5 / shrink,
            stages=stages,
            **{"num_warps": warps},
        )
    return mixed.flatten(2)

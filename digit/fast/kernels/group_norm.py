"""GroupNorm and SiLU of channels-last pictures in two passes: statistics, then a scale and shift a channel.

The first pass takes along what comes before the norm: a residual sum, or the doubling of the side after a
convolution that has made the four pixels of each place as channels (`digit.nn.autoencoder_inference`).
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _tile_statistics(
    x,
    other,
    whole,
    partial,
    count,
    wide,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """Mean and sum of squared deviations of each group in ROWS pixels; writes x + other, or x doubled."""
    tile, picture = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows = tile * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, CHANNELS)
    inside = (rows < count)[:, None]
    places = (picture * count + rows)[:, None] * CHANNELS + channels[None, :]
    if DOUBLE:
        down, across = rows // wide, rows % wide
        source = (down // 2 + down % 2) * (wide // 2 + 1) + across // 2 + across % 2
        sources = (count // wide // 2 + 1) * (wide // 2 + 1)
        phase = down % 2 * 2 + across % 2
        start = (picture * sources + source) * 4 * CHANNELS + phase * CHANNELS
        value = tl.load(x + start[:, None] + channels[None, :], mask=inside, other=0.0).to(tl.float32)
        value += tl.load(other + channels)[None, :]
    else:
        value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            value += tl.load(other + places, mask=inside, other=0.0).to(tl.float32)
    if ADD or DOUBLE:
        half = value.to(whole.dtype.element_ty)
        tl.store(whole + places, half, mask=inside)
        value = half.to(tl.float32)
    value = tl.where(inside, value, 0.0)
    each: tl.constexpr = CHANNELS // GROUPS
    here = tl.minimum(count - tile * ROWS, ROWS)
    mean = tl.sum(tl.reshape(tl.sum(value, axis=0), (GROUPS, each)), axis=1) / (here * each)
    spread = tl.reshape(tl.broadcast_to(mean[:, None], (GROUPS, each)), (CHANNELS,))
    centred = tl.where(inside, value - spread[None, :], 0.0)
    squares = tl.sum(tl.reshape(tl.sum(centred * centred, axis=0), (GROUPS, each)), axis=1)
    group = tl.arange(0, GROUPS)
    at = (picture * tl.num_programs(0) + tile) * 2 * GROUPS
    tl.store(partial + at + group, mean)
    tl.store(partial + at + GROUPS + group, squares)


@triton.jit
@no_type_check
def _join(
    partial,
    weight,
    bias,
    scale,
    shift,
    count,
    tiles,
    eps,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Scale and shift of one picture's channels, from the statistics of its tiles (Chan et al., 1979)."""
    picture = tl.program_id(0).to(tl.int64)
    each: tl.constexpr = CHANNELS // GROUPS
    group = tl.arange(0, GROUPS)
    start = partial + picture * tiles * 2 * GROUPS
    mean = tl.zeros((GROUPS,), tl.float32)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        rows = tl.where(tile < tiles, tl.minimum(count - tile * ROWS, ROWS), 0).to(tl.float32)
        means = tl.load(start + tile[:, None] * 2 * GROUPS + group, mask=(tile < tiles)[:, None], other=0.0)
        mean += tl.sum(means * rows[:, None], axis=0)
    mean = mean / count
    squares = tl.zeros((GROUPS,), tl.float32)
    for first in range(0, tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        there = (tile < tiles)[:, None]
        rows = tl.where(tile < tiles, tl.minimum(count - tile * ROWS, ROWS), 0).to(tl.float32)
        at = start + tile[:, None] * 2 * GROUPS + group
        away = tl.load(at, mask=there, other=0.0) - mean[None, :]
        within = tl.load(at + GROUPS, mask=there, other=0.0)
        squares += tl.sum(within + away * away * (rows * each)[:, None], axis=0)
    inverse = tl.rsqrt(squares / (count * each) + eps)
    spread = tl.reshape(tl.broadcast_to(inverse[:, None], (GROUPS, each)), (CHANNELS,))
    centre = tl.reshape(tl.broadcast_to(mean[:, None], (GROUPS, each)), (CHANNELS,))
    channels = tl.arange(0, CHANNELS)
    factor = tl.load(weight + channels) * spread
    tl.store(scale + picture * CHANNELS + channels, factor)
    tl.store(shift + picture * CHANNELS + channels, tl.load(bias + channels) - centre * factor)


@triton.jit
@no_type_check
def _normed(x, scale, shift, rows, inside, picture, count, CHANNELS: tl.constexpr):
    """SiLU of scaled and shifted pixels, in float32."""
    channels = tl.arange(0, CHANNELS)
    places = (picture * count + rows)[:, None] * CHANNELS + channels[None, :]
    value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(scale + picture * CHANNELS + channels)
    value = value * factor[None, :] + tl.load(shift + picture * CHANNELS + channels)[None, :]
    return value * tl.sigmoid(value), places


@triton.jit
@no_type_check
def _apply(x, scale, shift, out, count, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (rows < count)[:, None]
    value, places = _normed(x, scale, shift, rows, inside, tl.program_id(1).to(tl.int64), count, CHANNELS)
    tl.store(out + places, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _taps(
    x,
    scale,
    shift,
    matrix,
    out,
    count,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    TAPS: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Each pixel's share in the nine places of a 3 x 3 convolution to three channels."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    picture = tl.program_id(1).to(tl.int64)
    inside = (rows < count)[:, None]
    value, _ = _normed(x, scale, shift, rows, inside, picture, count, CHANNELS)
    tap = tl.arange(0, PADDED)
    weights = tl.load(matrix + tl.arange(0, CHANNELS)[:, None] * PADDED + tap[None, :])
    shares = tl.dot(value.to(weights.dtype), weights)
    places = (picture * TAPS + tap)[None, :] * count + rows[:, None]
    tl.store(out + places, shares.to(out.dtype.element_ty), mask=inside & (tap < TAPS)[None, :])


@triton.jit
@no_type_check
def _pixels(taps, bias, out, count, wide, low, width, ROWS: tl.constexpr, BYTES: tl.constexpr):
    """The sum of nine neighbours' shares as pixels in [0, 1], or as bytes."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    picture, channel = tl.program_id(1).to(tl.int64) // 3, tl.program_id(1) % 3
    down, across = rows // wide, rows % wide
    total = tl.zeros((ROWS,), tl.float32) + tl.load(bias + channel)
    for tap in tl.static_range(9):
        y, x = down + tap // 3 - 1, across + tap % 3 - 1
        there = (rows < count) & (y >= 0) & (y < count // wide) & (x >= 0) & (x < wide)
        plane = (picture * 27 + tap * 3 + channel) * count
        total += tl.load(taps + plane + y * wide + x, mask=there, other=0.0).to(tl.float32)
    total = (total - low) / width
    total = tl.where(total == total, tl.clamp(total, 0.0, 1.0), total)  # so that an overflow can be seen
    if BYTES:
        total = total * 255 + 0.5
    tl.store(out + (picture * 3 + channel) * count + rows, total.to(out.dtype.element_ty), mask=rows < count)


Affine = tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]  # scale and shift, float32


def statistics(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    groups: int,
    eps: float,
    *,
    add: Float[Tensor, "b c h w"] | None = None,
) -> tuple[Float[Tensor, "b c h w"], Affine]:
    """x + add, and what its GroupNorm multiplies and adds; all channels-last, channels a power of two."""
    whole = x if add is None else torch.empty_like(x)
    return whole, _statistics(x, add, whole, weight, bias, groups, eps, double=False)


def double_statistics(
    phases: Float[Tensor, "b c4 h1 w1"],
    phase_bias: Float[Tensor, " c"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    groups: int,
    eps: float,
) -> tuple[Float[Tensor, "b c h w"], Affine]:
    """The picture of twice the side whose pixels (2y + i, 2x + j) are phase 2 i + j at (y + i, x + j)."""
    b, c4, h1, w1 = phases.shape
    whole = torch.empty(
        (b, c4 // 4, 2 * h1 - 2, 2 * w1 - 2),
        dtype=phases.dtype,
        device=phases.device,
        memory_format=torch.channels_last,
    )
    return whole, _statistics(phases, phase_bias, whole, weight, bias, groups, eps, double=True)


def _statistics(
    x: Tensor,
    other: Tensor | None,
    whole: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    double: bool,
) -> tuple[Tensor, Tensor]:
    b, c, h, w = whole.shape
    rows = max(16, 8192 // c)
    tiles = -(-h * w // rows)
    partial = torch.empty(b, tiles, 2, groups, device=x.device)
    scale, shift = torch.empty(2, b, c, device=x.device).unbind(0)
    _tile_statistics[(tiles, b)](
        x,
        x if other is None else other,
        whole,
        partial,
        h * w,
        w,
        CHANNELS=c,
        GROUPS=groups,
        ROWS=rows,
        ADD=other is not None and not double,
        DOUBLE=double,
    )
    _join[(b,)](
        partial, weight, bias, scale, shift, h * w, tiles, eps, CHANNELS=c, GROUPS=groups, ROWS=rows, BLOCK=64
    )
    return scale, shift


def apply(x: Float[Tensor, "b c h w"], affine: Affine) -> Float[Tensor, "b c h w"]:
    """SiLU of x scaled and shifted."""
    b, c, h, w = x.shape
    rows = max(16, 8192 // c)
    out = torch.empty_like(x)
    _apply[(triton.cdiv(h * w, rows), b)](x, *affine, out, h * w, CHANNELS=c, ROWS=rows)
    return out


def to_pixels(
    x: Float[Tensor, "b c h w"],
    affine: Affine,
    matrix: Float[Tensor, "c 32"],
    bias: Float[Tensor, " 3"],
    black: float,
    white: float,
    out: Tensor,
) -> Tensor:
    """`out`, float in [0, 1] or uint8: the 3 x 3 convolution to colours of the SiLU of x scaled and shifted.

    `matrix` holds weight[colour, c, i, j] at [c, 3 (3 i + j) + colour]. A product gives every pixel's 27
    shares, and each pixel adds up its neighbours': the normed picture is never written.
    """
    b, c, h, w = x.shape
    taps = torch.empty(b, 27, h * w, dtype=torch.float16, device=x.device)
    rows = 64
    _taps[(triton.cdiv(h * w, rows), b)](
        x, *affine, matrix, taps, h * w, CHANNELS=c, ROWS=rows, TAPS=27, PADDED=matrix.shape[1]
    )
    _pixels[(triton.cdiv(h * w, 1024), 3 * b)](
        taps, bias, out, h * w, w, black, white - black, ROWS=1024, BYTES=out.dtype == torch.uint8
    )
    return out

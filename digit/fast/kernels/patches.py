"""Patches of pictures as rows of a matrix, shifted and scaled, in one pass over the pixels."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Shaped
from torch import Tensor


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _patches(
    pixels,
    out,
    count,
    scale,
    shift,
    PREFIX: tl.constexpr,
    GRID: tl.constexpr,
    PATCH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS tokens: channel, row and column of a pixel follow from its place in the row of the matrix."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    side: tl.constexpr = GRID * PATCH
    tokens: tl.constexpr = PREFIX + GRID * GRID
    picture, patch = rows // tokens, rows % tokens - PREFIX
    corner = picture.to(tl.int64) * 3 * side * side + (patch // GRID) * PATCH * side + (patch % GRID) * PATCH
    inside = column // (PATCH * PATCH) * side * side + column // PATCH % PATCH * side + column % PATCH
    real = ((rows < count) & (patch >= 0))[:, None] & (column < 3 * PATCH * PATCH)[None, :]
    value = tl.load(pixels + corner[:, None] + inside[None, :], mask=real, other=0).to(tl.float32)
    value = tl.where(real, value * scale + shift, 0.0)
    places = rows[:, None].to(tl.int64) * WIDTH + column[None, :]
    tl.store(
        out + places,
        value.to(out.dtype.element_ty),
        mask=(rows < count)[:, None] & (column < WIDTH)[None, :],
    )


def patches(
    pixels: Shaped[Tensor, "b 3 h h"],
    patch: int,
    *,
    width: int,
    prefix: int,
    scale: float,
    shift: float,
    dtype: torch.dtype,
) -> Float[Tensor, "n {width}"]:
    """pixels * scale + shift, a row for each patch (channels, rows, columns), zeros up to `width`.

    Before those of each picture stand `prefix` rows of zeros.
    """
    grid = pixels.shape[-1] // patch
    count = len(pixels) * (prefix + grid**2)
    out = torch.empty(count, width, device=pixels.device, dtype=dtype)
    block = triton.next_power_of_2(width)
    rows = max(1, 4096 // block)
    _patches[(triton.cdiv(count, rows),)](
        pixels.contiguous(),
        out,
        count,
        scale,
        shift,
        PREFIX=prefix,
        GRID=grid,
        PATCH=patch,
        WIDTH=width,
        BLOCK=block,
        ROWS=rows,
    )
    return out

"""GELU(hidden + bias), exact, as one kernel forward and one backward that adds up the bias's gradient too."""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

COLUMNS, ROWS, STRIPS = 256, 8, 256


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _normal(x):
    """exp(-x**2 / 2), and the normal distribution's share below x to 1e-7 (Abramowitz and Stegun, 7.1.26)."""
    bell = tl.exp(-0.5 * x * x)
    t = 1.0 / (1.0 + 0.3275911 * 0.7071067811865476 * tl.abs(x))
    tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    tail = 0.5 * tail * bell
    return bell, tl.where(x < 0, tail, 1.0 - tail)


@triton.jit
@no_type_check
def _forward(hidden, bias, out, rows, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """One tile a program."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    places = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = (places < rows)[:, None] & (columns < WIDTH)[None, :]
    at = places[:, None] * WIDTH + columns[None, :]
    x = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(bias + columns, mask=columns < WIDTH, other=0.0)[None, :]
    _, below = _normal(x)
    tl.store(out + at, (x * below).to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _backward(
    gradient,
    hidden,
    bias,
    out,
    partial,
    rows,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Every so many-th tile of a few columns a program."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    strip, strips = tl.program_id(1), tl.num_programs(1)
    added = tl.load(bias + columns, mask=columns < WIDTH, other=0.0)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(strip * ROWS, rows, strips * ROWS):
        places = start + tl.arange(0, ROWS)
        inside = (places < rows)[:, None] & (columns < WIDTH)[None, :]
        at = places.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        x = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32) + added
        dy = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        bell, below = _normal(x)
        dx = dy * (below + x * bell * 0.3989422804014327)
        tl.store(out + at, dx.to(out.dtype.element_ty), mask=inside)
        total += dx
    tl.store(partial + strip * WIDTH + columns, tl.sum(total, axis=0), mask=columns < WIDTH)


class BiasGelu(torch.autograd.Function):
    """Keeps the hidden values without their bias."""

    @staticmethod
    def forward(ctx: Any, hidden: Float[Tensor, "r m"], bias: Float[Tensor, " m"]) -> Float[Tensor, "r m"]:
        """The result in the dtype of `hidden`."""
        hidden = hidden.contiguous()
        rows, width = hidden.shape
        out = torch.empty_like(hidden)
        grid = (triton.cdiv(width, COLUMNS), triton.cdiv(rows, ROWS))
        _forward[grid](hidden, bias, out, rows, WIDTH=width, COLUMNS=COLUMNS, ROWS=ROWS)
        ctx.save_for_backward(hidden, bias)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The gradients of both."""
        hidden, bias = ctx.saved_tensors
        rows, width = hidden.shape
        out = torch.empty_like(hidden)
        strips = min(STRIPS, triton.cdiv(rows, ROWS))
        partial = hidden.new_empty(strips, width, dtype=torch.float32)
        grid = (triton.cdiv(width, COLUMNS), strips)
        _backward[grid](
            *(gradient.contiguous(), hidden, bias, out, partial, rows),
            WIDTH=width,
            COLUMNS=COLUMNS,
            ROWS=ROWS,
        )
        return out, partial.sum(0)

"""Hidden states -> queries, keys and values; their gradients are joined and summed in one pass."""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

COLUMNS, ROWS, STRIPS = 256, 8, 320


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _join(
    part,
    joined,
    partial,
    rows,
    length,
    per_image,
    per_head,
    per_place,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    EACH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One of three parts, (b h n c) in any layout, to WIDTH columns of (b n 3 h c), and their sums."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    strip, strips = tl.program_id(1), tl.num_programs(1)
    across = (columns // EACH) * per_head + columns % EACH
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(strip * ROWS, rows, strips * ROWS):
        places = (start + tl.arange(0, ROWS)).to(tl.int64)
        inside = (places < rows)[:, None] & (columns < WIDTH)[None, :]
        down = (places // length) * per_image + (places % length) * per_place
        x = tl.load(part + down[:, None] + across[None, :], mask=inside, other=0.0)
        tl.store(joined + places[:, None] * STRIDE + columns[None, :], x, mask=inside)
        total += x.to(tl.float32)
    tl.store(partial + strip * STRIDE + columns, tl.sum(total, axis=0), mask=columns < WIDTH)


class Heads(torch.autograd.Function):
    """x @ weight.T + bias in the dtype of x, as three tensors (b h n c)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "r d"],
        weight: Float[Tensor, "e d"],
        bias: Float[Tensor, " e"],
        batch: int,
        heads: int,
    ) -> tuple[Float[Tensor, "b h n c"], Float[Tensor, "b h n c"], Float[Tensor, "b h n c"]]:
        """Three views of one tensor (b n 3 h c)."""
        half = weight.to(x.dtype)
        joined = torch.addmm(bias.to(x.dtype), x, half.T)
        ctx.save_for_backward(x, half)
        ctx.dtype = weight.dtype
        split = joined.view(batch, -1, 3, heads, x.shape[1] // heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        return queries, keys, values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """The gradients of x, weight and bias."""
        x, half = ctx.saved_tensors
        rows, width = x.shape
        strips = min(STRIPS, triton.cdiv(rows, ROWS))
        joined = x.new_empty(rows, 3 * width)
        partial = x.new_empty(strips, 3 * width, dtype=torch.float32)
        for start, part in enumerate(gradients):
            part = part if part.stride(3) == 1 else part.contiguous()
            _, _, length, each = part.shape
            _join[(triton.cdiv(width, COLUMNS), strips)](
                *(part, joined[:, start * width :], partial[:, start * width :], rows, length),
                *(part.stride(0), part.stride(1), part.stride(2)),
                STRIDE=3 * width,
                WIDTH=width,
                EACH=each,
                COLUMNS=COLUMNS,
                ROWS=ROWS,
            )
        return joined @ half, (joined.T @ x).to(ctx.dtype), partial.sum(0), None, None

"""LayerNorm(residual + dropout(branch + bias)) as one kernel forward and one backward."""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

PROGRAMS = 528  # of a backward pass: four on each of 132 multiprocessors; each leaves sums to be added


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


@triton.jit(do_not_specialize=["which"])
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _forward(
    branch,
    bias,
    residual,
    gain,
    shift,
    seeds,
    out,
    means,
    scales,
    which,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EPS: tl.constexpr,
    DROPPED: tl.constexpr,
    GROWN: tl.constexpr,
):
    """One row per program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    at = row * WIDTH + columns
    b = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32) + tl.load(
        bias + columns, mask=inside, other=0.0
    )
    if DROPPED > 0:
        b = tl.where(kept(tl.load(seeds + which), row, columns, DROPPED), b * GROWN, 0.0)
    z = b + tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(z, axis=0) / WIDTH
    centred = tl.where(inside, z - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / WIDTH + EPS)
    y = centred * scale * tl.load(gain + columns, mask=inside) + tl.load(shift + columns, mask=inside)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)
    tl.store(means + row, mean)
    tl.store(scales + row, scale)


@triton.jit(do_not_specialize=["which"])
@no_type_check
def _backward(
    first,
    second,
    branch,
    bias,
    residual,
    gain,
    seeds,
    means,
    scales,
    to_branch,
    to_residual,
    partial,
    which,
    rows,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TWO: tl.constexpr,
    DROPPED: tl.constexpr,
    GROWN: tl.constexpr,
):
    """Every so many-th row per program; what the next row needs is on its way while one is computed."""
    start = tl.program_id(0).to(tl.int64)
    step = tl.num_programs(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    weights = tl.load(gain + columns, mask=inside, other=0.0)
    added = tl.load(bias + columns, mask=inside, other=0.0)
    seed = tl.load(seeds + which)
    to_gain = tl.zeros((BLOCK,), tl.float32)
    to_shift = tl.zeros((BLOCK,), tl.float32)
    to_bias = tl.zeros((BLOCK,), tl.float32)
    at = start * WIDTH + columns
    here = inside & (start < rows)
    next_dy = tl.load(first + at, mask=here, other=0.0)
    if TWO:
        next_more = tl.load(second + at, mask=here, other=0.0)
    next_b = tl.load(branch + at, mask=here, other=0.0)
    next_r = tl.load(residual + at, mask=here, other=0.0)
    for row in range(start, rows, step):
        dy = next_dy.to(tl.float32)
        if TWO:
            dy += next_more.to(tl.float32)
        b = next_b.to(tl.float32) + added
        z = next_r.to(tl.float32)
        mean = tl.load(means + row)
        scale = tl.load(scales + row)
        at = row * WIDTH + columns
        after = at + step * WIDTH
        here = inside & (row + step < rows)
        next_dy = tl.load(first + after, mask=here, other=0.0)
        if TWO:
            next_more = tl.load(second + after, mask=here, other=0.0)
        next_b = tl.load(branch + after, mask=here, other=0.0)
        next_r = tl.load(residual + after, mask=here, other=0.0)
        if DROPPED > 0:
            keep = kept(seed, row, columns, DROPPED)
            b = tl.where(keep, b * GROWN, 0.0)
        normal = tl.where(inside, (z + b - mean) * scale, 0.0)
        inner = dy * weights
        along = tl.sum(inner * normal, axis=0) / WIDTH
        flat = tl.sum(inner, axis=0) / WIDTH
        dz = (inner - flat - normal * along) * scale
        db = dz
        if DROPPED > 0:
            db = tl.where(keep, dz * GROWN, 0.0)
        tl.store(to_residual + at, dz.to(to_residual.dtype.element_ty), mask=inside)
        tl.store(to_branch + at, db.to(to_branch.dtype.element_ty), mask=inside)
        to_gain += dy * normal
        to_shift += dy
        to_bias += db
    sums = partial + start * (3 * WIDTH) + columns
    tl.store(sums, to_gain, mask=inside)
    tl.store(sums + WIDTH, to_shift, mask=inside)
    tl.store(sums + 2 * WIDTH, to_bias, mask=inside)


class AddNorm(torch.autograd.Function):
    """The result twice, for the next branch and for the next sum: their gradients meet inside the kernel."""

    @staticmethod
    def forward(
        ctx: Any,
        branch: Float[Tensor, "r d"],
        bias: Float[Tensor, " d"],
        residual: Float[Tensor, "r d"],
        gain: Float[Tensor, " d"],
        shift: Float[Tensor, " d"],
        seeds: Int[Tensor, " s"],
        which: int,
        share: float,
        eps: float,
    ) -> tuple[Float[Tensor, "r d"], Float[Tensor, "r d"]]:
        """`share` of the branch's values become 0, as int32 seed number `which` decides."""
        branch, residual = branch.contiguous(), residual.contiguous()
        rows, width = branch.shape
        out = torch.empty_like(residual)
        means, scales = branch.new_empty(2, rows, dtype=torch.float32)
        ctx.shape = _shape(width, share)
        _forward[(rows,)](
            *(branch, bias, residual, gain, shift, seeds, out, means, scales, which),
            **ctx.shape,
            EPS=eps,
        )
        ctx.which = which
        ctx.save_for_backward(branch, bias, residual, gain, seeds, means, scales)
        ctx.set_materialize_grads(False)
        return out, out.detach()

    @staticmethod
    def backward(ctx: Any, first: Tensor | None, second: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        """The gradients of all that `forward` got; either of the two may be missing."""
        branch, bias, residual, gain, seeds, means, scales = ctx.saved_tensors
        given = [each.contiguous() for each in (first, second) if each is not None]
        rows, width = branch.shape
        programs = min(PROGRAMS, rows)
        to_branch, to_residual = torch.empty_like(branch), torch.empty_like(residual)
        partial = branch.new_empty(programs, 3, width, dtype=torch.float32)
        _backward[(programs,)](
            *(given[0], given[-1], branch, bias, residual, gain, seeds, means, scales),
            *(to_branch, to_residual, partial, ctx.which, rows),
            **ctx.shape,
            TWO=len(given) == 2,
        )
        to_gain, to_shift, to_bias = partial.sum(0)
        return to_branch, to_bias, to_residual, to_gain, to_shift, None, None, None, None


def _shape(width: int, share: float) -> dict[str, Any]:
    """What both kernels are compiled for; a thread has eight values of a row, 16 bytes in bf16."""
    block: Any = triton.next_power_of_2(width)
    dropped, grown = round(share * (1 << 24)), 1 / (1 - share)
    warps = min(16, max(1, block // 256))
    return {"WIDTH": width, "BLOCK": block, "DROPPED": dropped, "GROWN": grown, "num_warps": warps}

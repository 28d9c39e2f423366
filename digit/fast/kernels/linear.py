"""A matrix by very few rows: bound by reading the matrix, so LayerNorm, GELU and residual ride along."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from digit.fast.kernels.norm import add_pairs

Norm = tuple[Tensor, Tensor]  # weight and bias of a LayerNorm, float32


@triton.jit
@no_type_check
def _statistics(value, pivot, there, width, eps):
    """Mean and 1 / deviation in one pass, of numbers near `pivot`, which is one of them."""
    centred = tl.where(there, value - pivot, 0.0)
    total, squares = tl.reduce((centred, centred * centred), 0, add_pairs)
    mean = total / width
    return pivot + mean, tl.rsqrt(tl.maximum(squares / width - mean * mean, 0.0) + eps)


@triton.jit
@no_type_check
def _row(
    x,
    residual,
    residual_statistics,
    row,
    n,
    k,
    outputs,
    inputs,
    normed: tl.constexpr,
    residual_kind: tl.constexpr,
):
    """What the kernel before this one wrote of a row: values, one of them, and the residual with its norm."""
    value = tl.load(x + row * inputs + k, mask=k < inputs, other=0.0)
    pivot, kept, mean, scale = 0.0, 0.0, 0.0, 0.0
    if normed:
        pivot = tl.load(x + row * inputs)
    if residual_kind > 0:
        kept = tl.load(residual + row * outputs + n, mask=n < outputs, other=0.0)
    if residual_kind == 2:
        mean = tl.load(residual_statistics + 2 * row)
        scale = tl.load(residual_statistics + 2 * row + 1)
    return value, pivot, kept, mean, scale


@triton.jit
@no_type_check
def _few_rows(
    x,
    matrix,
    bias,
    norm_weight,
    norm_bias,
    statistics,
    residual,
    residual_weight,
    residual_bias,
    residual_statistics,
    out,
    outputs,
    inputs: tl.constexpr,
    eps,
    rows: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    biased: tl.constexpr,
    normed: tl.constexpr,
    gelu: tl.constexpr,
    residual_kind: tl.constexpr,
    chained: tl.constexpr,
):
    n = tl.program_id(0) * block_n + tl.arange(0, block_n)
    k = tl.arange(0, block_k)
    here, there = n < outputs, k < inputs
    if chained:
        gdc_launch_dependents()
    # All weights are on their way before the kernel before this one has finished.
    tile = tl.load(
        matrix + n[:, None].to(tl.int64) * inputs + k[None, :],
        mask=here[:, None] & there[None, :],
        other=0.0,
        eviction_policy="evict_first",
    )
    if biased:
        shift = tl.load(bias + n, mask=here, other=0.0)
    if normed:
        gain = tl.load(norm_weight + k, mask=there, other=0.0)
        offset = tl.load(norm_bias + k, mask=there, other=0.0)
    if residual_kind == 2:
        kept_gain = tl.load(residual_weight + n, mask=here, other=0.0)
        kept_offset = tl.load(residual_bias + n, mask=here, other=0.0)
    if chained:
        gdc_wait()
    held = _row(x, residual, residual_statistics, 0, n, k, outputs, inputs, normed, residual_kind)
    for row in tl.static_range(rows):
        value, pivot, kept, kept_mean, kept_scale = held
        if row + 1 < rows:  # on its way while this one is computed
            held = _row(
                x, residual, residual_statistics, row + 1, n, k, outputs, inputs, normed, residual_kind
            )
        if normed:
            mean, scale = _statistics(value, pivot, there, inputs, eps)
            value = (value - mean) * scale * gain + offset
            if tl.program_id(0) == 0:
                tl.store(statistics + 2 * row, mean)
                tl.store(statistics + 2 * row + 1, scale)
        result = tl.sum(tile.to(tl.float32) * value[None, :], 1)
        if biased:
            result += shift
        if gelu:
            result = 0.5 * result * (1.0 + tl.erf(result * 0.7071067811865476))
        if residual_kind == 2:
            kept = (kept - kept_mean) * kept_scale * kept_gain + kept_offset
        if residual_kind > 0:
            result += kept
        tl.store(out + row * outputs + n, result, mask=here)


def tile(inputs: int) -> tuple[int, int]:
    """Rows of the matrix for one program and warps, the fastest measured on an H200 (bench/sampler.py)."""
    block_k = 1 << (inputs - 1).bit_length()
    return (max(1, 4096 // block_k), 2) if block_k <= 2048 else (max(1, 16384 // block_k), 8)


def few_rows(
    x: Float[Tensor, "r k"],
    matrix: Float[Tensor, "n k"],
    bias: Float[Tensor, " n"] | None,
    *,
    norm: Norm | None = None,
    statistics: Float[Tensor, "r 2"] | None = None,
    gelu: bool = False,
    residual: Float[Tensor, "r n"] | None = None,
    residual_norm: Norm | None = None,
    residual_statistics: Float[Tensor, "r 2"] | None = None,
    eps: float = 1e-5,
    chained: bool = False,
) -> Float[Tensor, "r n"]:
    """act(LayerNorm(x) @ matrix.T + bias) + LayerNorm(residual), each part but the product optional.

    x, residual, all arithmetic and the result are float32; GELU is the exact one. A LayerNorm of x leaves the
    mean and the inverse deviation of each row in `statistics`; that of the residual takes them from
    `residual_statistics`, where an earlier product of the same rows has left them. A `chained` launch begins,
    and reads its weights, while the kernel before it still runs.
    """
    rows, inputs = x.shape
    outputs = matrix.shape[0]
    out = torch.empty(rows, outputs, device=x.device, dtype=torch.float32)
    block_n, warps = tile(inputs)
    nothing = x  # a pointer that is never read
    weight, shift = norm if norm is not None else (nothing, nothing)
    if statistics is None:
        statistics = x.new_empty(rows, 2)
    kept_weight, kept_shift = residual_norm if residual_norm is not None else (nothing, nothing)
    _few_rows[(triton.cdiv(outputs, block_n),)](
        x,
        matrix,
        nothing if bias is None else bias,
        weight,
        shift,
        statistics,
        nothing if residual is None else residual,
        kept_weight,
        kept_shift,
        nothing if residual_statistics is None else residual_statistics,
        out,
        outputs,
        inputs,
        eps,
        rows=rows,
        block_n=block_n,
        block_k=triton.next_power_of_2(inputs),
        biased=bias is not None,
        normed=norm is not None,
        gelu=gelu,
        residual_kind=0 if residual is None else 1 if residual_norm is None else 2,
        chained=chained,
        **{"num_warps": warps},
        **({"launch_pdl": True} if chained and torch.version.cuda else {}),
    )
    return out

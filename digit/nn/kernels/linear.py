"""A matrix by very few rows: bound by reading the matrix, so LayerNorm, GELU and residual ride along."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

ELEMENTS = 8192  # of the matrix for one program: the fastest measured on an H100 (bench/sampler.py)
Norm = tuple[Tensor, Tensor]  # weight and bias of a LayerNorm, float32


@triton.jit
@no_type_check
def _statistics(value, there, width, eps):
    mean = tl.sum(value, 0) / width
    centred = tl.where(there, value - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)


@triton.jit
@no_type_check
def _few_rows(
    x,
    matrix,
    bias,
    norm_weight,
    norm_bias,
    residual,
    residual_weight,
    residual_bias,
    out,
    outputs,
    inputs,
    eps,
    rows: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    block_r: tl.constexpr,
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
    # The matrix is on its way before the kernel before this one has finished.
    tile = tl.load(
        matrix + n[:, None].to(tl.int64) * inputs + k[None, :],
        mask=here[:, None] & there[None, :],
        other=0.0,
        eviction_policy="evict_first",
    )
    if chained:
        gdc_wait()
    for row in tl.static_range(rows):
        value = tl.load(x + row * inputs + k, mask=there, other=0.0).to(tl.float32)
        if normed:
            mean, scale = _statistics(value, there, inputs, eps)
            value = (value - mean) * scale * tl.load(norm_weight + k, mask=there, other=0.0) + tl.load(
                norm_bias + k, mask=there, other=0.0
            )
        result = tl.sum(tile.to(tl.float32) * value[None, :], 1)
        if biased:
            result += tl.load(bias + n, mask=here, other=0.0)
        if gelu:
            result = 0.5 * result * (1.0 + tl.erf(result * 0.7071067811865476))
        if residual_kind > 0:
            kept = tl.load(residual + row * outputs + n, mask=here, other=0.0).to(tl.float32)
            if residual_kind == 2:
                r = tl.arange(0, block_r)
                inside = r < outputs
                whole = tl.load(residual + row * outputs + r, mask=inside, other=0.0).to(tl.float32)
                mean, scale = _statistics(whole, inside, outputs, eps)
                kept = (kept - mean) * scale * tl.load(residual_weight + n, mask=here, other=0.0)
                kept += tl.load(residual_bias + n, mask=here, other=0.0)
            result += kept
        tl.store(out + row * outputs + n, result.to(out.dtype.element_ty), mask=here)


def few_rows(
    x: Float[Tensor, "r k"],
    matrix: Float[Tensor, "n k"],
    bias: Float[Tensor, " n"] | None,
    *,
    norm: Norm | None = None,
    gelu: bool = False,
    residual: Float[Tensor, "r n"] | None = None,
    residual_norm: Norm | None = None,
    eps: float = 1e-5,
    chained: bool = False,
    elements: int | None = None,
    warps: int = 8,
) -> Float[Tensor, "r n"]:
    """act(LayerNorm(x) @ matrix.T + bias) + LayerNorm(residual), each part but the product optional.

    All arithmetic and the result are float32; GELU is the exact one. `elements` of the matrix are one
    program's. A `chained` launch begins, and reads its matrix, while the kernel before it still runs.
    """
    rows, inputs = x.shape
    outputs = matrix.shape[0]
    out = torch.empty(rows, outputs, device=x.device, dtype=torch.float32)
    block_k = triton.next_power_of_2(inputs)
    block_n = max(1, (elements or ELEMENTS) // block_k)
    nothing = x  # a pointer that is never read
    weight, shift = norm if norm is not None else (nothing, nothing)
    kept_weight, kept_shift = residual_norm if residual_norm is not None else (nothing, nothing)
    _few_rows[(triton.cdiv(outputs, block_n),)](
        x,
        matrix,
        nothing if bias is None else bias,
        weight,
        shift,
        nothing if residual is None else residual,
        kept_weight,
        kept_shift,
        out,
        outputs,
        inputs,
        eps,
        rows=rows,
        block_n=block_n,
        block_k=block_k,
        block_r=triton.next_power_of_2(outputs) if residual_norm is not None else 1,
        biased=bias is not None,
        normed=norm is not None,
        gelu=gelu,
        residual_kind=0 if residual is None else 1 if residual_norm is None else 2,
        chained=chained,
        **{"num_warps": warps},
        **({"launch_pdl": True} if chained and torch.version.cuda else {}),
    )
    return out

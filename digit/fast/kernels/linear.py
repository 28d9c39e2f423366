"""A matrix by rows, with what follows it in a transformer: bias, GELU and residual sum.

A row's result has the same bits whatever rows stand beside it: each sum runs over the inputs in order, in
whatever tile and kernel. Where rows can be few, long sums are cut into parts of PART inputs, which are added
up in order: several programs share them, for few rows wait for one product after another. No multiplication
is fused with an addition, since compilers choose which in each kernel anew.
"""

from typing import Any, Literal, no_type_check

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

Gelu = Literal["", "exact", "tanh"]

PART = 1024  # inputs of a part of a sum
FEW = 16  # rows up to which reading the matrix is all that takes time
SPREAD = 512  # rows up to which several programs share the parts of a sum
LEAST = 16  # rows and outputs of a tile, at least


@triton.jit
@no_type_check
def _summed(total, partial, arrived, size, tile, place, there, parts: tl.constexpr):
    """The sum of all parts in order, and True, for the program of a tile that comes last with its part."""
    tl.store(partial + tl.program_id(1) * size + place, total, mask=there)
    tl.debug_barrier()
    last = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == parts - 1
    if last:
        total = tl.zeros(total.shape, tl.float32)
        for each in tl.static_range(parts):
            total += tl.load(partial + each * size + place, mask=there, other=0.0, cache_modifier=".cg")
        tl.store(arrived + tile, 0)
    return total, last


@triton.jit
@no_type_check
def _finish(
    total,
    shift,
    residual,
    out,
    place,
    there,
    biased: tl.constexpr,
    gelu: tl.constexpr,
    with_residual: tl.constexpr,
):
    """What follows the product, in float32; it is written as `out` has its numbers."""
    if biased:
        total += shift
    if gelu == "exact":
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    if gelu == "tanh":  # x (1 + tanh(y)) / 2 = x / (1 + exp(-2 y))
        inner = total * (1.5957691216057308 + 0.07135481627159747 * total * total)
        total = total / (1.0 + tl.exp2(tl.minimum(-1.4426950408889634 * inner, 126.0)))
    if with_residual:
        total += tl.load(residual + place, mask=there, other=0.0).to(tl.float32)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=there)


@triton.jit
@no_type_check
def _add_up(
    x,
    matrix,
    total,
    start,
    part: tl.constexpr,
    m,
    n,
    k,
    here,
    there,
    inputs: tl.constexpr,
    block_k: tl.constexpr,
    described: tl.constexpr,
):
    """The products of `part` inputs from `start` on, added to a tile of sums."""
    for at in range(start, start + part, block_k):
        if described:
            total = tl.dot(x.load([m, at]), matrix.load([n, at]).T, total)
        else:
            inside = k < inputs - at
            values = tl.load(x + at, mask=here & inside[None, :], other=0.0)
            weights = tl.load(matrix + at, mask=inside[:, None] & there, other=0.0)
            total = tl.dot(values, weights, total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def _many_rows(
    x,
    matrix,
    bias,
    residual,
    out,
    partial,
    arrived,
    rows,
    outputs: tl.constexpr,
    inputs: tl.constexpr,
    part: tl.constexpr,
    parts: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    biased: tl.constexpr,
    gelu: tl.constexpr,
    with_residual: tl.constexpr,
    described: tl.constexpr,
):
    # Programs that run at the same time share rows and matrix: 8 rows of tiles, column by column.
    tiles_m, tiles_n = tl.cdiv(rows, block_m), tl.cdiv(outputs, block_n)
    tile, band = tl.program_id(0), 8 * tiles_n
    first = tile // band * 8
    height = min(tiles_m - first, 8)
    m, n = (first + tile % band % height) * block_m, (tile % band // height) * block_n
    row, column, k = m + tl.arange(0, block_m), n + tl.arange(0, block_n), tl.arange(0, block_k)
    here, below = (row < rows)[:, None], (column < outputs)[None, :]
    if not described:
        x += row[:, None].to(tl.int64) * inputs + k[None, :]
        matrix += column[None, :].to(tl.int64) * inputs + k[:, None]
    shift = tl.load(bias + column, mask=column < outputs, other=0.0)[None, :] if biased else 0.0
    place, there = row[:, None].to(tl.int64) * outputs + column[None, :], here & below
    total = tl.zeros((block_m, block_n), tl.float32)
    if part >= inputs:
        total = _add_up(x, matrix, total, 0, inputs, m, n, k, here, below, inputs, block_k, described)
    elif parts > 1:
        start = tl.program_id(1) * part
        total = _add_up(x, matrix, total, start, part, m, n, k, here, below, inputs, block_k, described)
    else:
        for start in range(0, inputs, part):
            none = tl.zeros((block_m, block_n), tl.float32)
            total += _add_up(x, matrix, none, start, part, m, n, k, here, below, inputs, block_k, described)
    if parts == 1:
        _finish(total, shift, residual, out, place, there, biased, gelu, with_residual)
    else:
        total, last = _summed(total, partial, arrived, rows * outputs, tile, place, there, parts)
        if last:
            _finish(total, shift, residual, out, place, there, biased, gelu, with_residual)


@triton.jit
@no_type_check
def _few_rows(
    x,
    matrix,
    bias,
    residual,
    out,
    partial,
    arrived,
    rows: tl.constexpr,
    outputs: tl.constexpr,
    inputs: tl.constexpr,
    part: tl.constexpr,
    parts: tl.constexpr,
    padded: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    biased: tl.constexpr,
    gelu: tl.constexpr,
    with_residual: tl.constexpr,
    chained: tl.constexpr,
):
    n, k = tl.program_id(0) * block_n + tl.arange(0, block_n), tl.arange(0, block_k)
    start = tl.program_id(1) * part
    here, inside = (n < outputs)[:, None], k < min(part, inputs - start)
    if chained:
        gdc_launch_dependents()
    # All weights are on their way before the kernel before this one has finished.
    weights = tl.load(
        matrix + n[:, None].to(tl.int64) * inputs + start + k[None, :],
        mask=here & inside[None, :],
        other=0.0,
        eviction_policy="evict_first",
    )
    shift = tl.load(bias + n, mask=n < outputs, other=0.0)[:, None] if biased else 0.0
    if chained:
        gdc_wait()
    r = tl.arange(0, padded)
    real = (r < rows)[None, :]
    values = tl.load(x + r[None, :] * inputs + start + k[:, None], mask=inside[:, None] & real, other=0.0)
    total = tl.dot(weights, values, input_precision="ieee")  # (output, row)
    # Else the compiler would begin the sum with the bias, which many rows add at its end.
    total = tl.where(real, total, 0.0)
    place, there = r[None, :] * outputs + n[:, None], real & here
    if parts == 1:
        _finish(total, shift, residual, out, place, there, biased, gelu, with_residual)
    else:
        tile = tl.program_id(0)
        total, last = _summed(total, partial, arrived, rows * outputs, tile, place, there, parts)
        if last:
            _finish(total, shift, residual, out, place, there, biased, gelu, with_residual)


def tile(rows: int, outputs: int, inputs: int, shared: int) -> tuple[int, int, int, int, int]:
    """Rows, outputs and inputs of a tile of `_many_rows`, warps and stages: the fastest measured on an H200.

    A tile has to fit into the shared memory of a program, in bytes.
    """
    results, deep = rows * outputs, inputs > 2048
    if results <= 400_000:
        return 64, 32, 128, 4, 4 if shared >= 100_000 else 3
    if results <= (1_500_000 if deep else 1_100_000):
        return 64, 64, 64, 4, 6 if shared >= 100_000 else 4
    if shared < 150_000 or (results <= 3_500_000 and not deep):
        return 64, 128, 64, 4, 3
    return (128, 256, 64, 8, 3) if deep and results > 3_500_000 else (128, 128, 64, 8, 4 if deep else 3)


def few_tile(outputs: int, shared: int) -> tuple[int, int]:
    """Outputs of a program of `_few_rows` and warps, likewise."""
    return (32, 2) if outputs <= 1024 or shared < 150_000 else (64, 4)


def linear(
    x: Float[Tensor, "r k"],
    matrix: Float[Tensor, "n k"],
    bias: Float[Tensor, " n"] | None = None,
    *,
    gelu: Gelu = "",
    residual: Float[Tensor, "r n"] | None = None,
    parts: bool = False,
    arrived: Int[Tensor, " p"] | None = None,
    dtype: torch.dtype | None = None,
    chained: bool = False,
) -> Float[Tensor, "r n"]:
    """gelu(x @ matrix.T + bias) + residual, each part but the product optional.

    Sums, bias and GELU are float32. Rows in float32 on a GPU are the library's to multiply: their bits may
    depend on the rows beside them.

    Args:
        x: the rows.
        matrix: in the rows' dtype.
        bias: float32.
        gelu: exact, or in its tanh form.
        residual: added at the end, in the rows' dtype.
        parts: whether long sums come in parts; calls for the same rows must agree on it.
        arrived: `counters`, needed with `parts`; a call leaves zeros.
        dtype: of the result; the rows' if left out.
        chained: the launch begins, and reads its weights, while the kernel before it still runs; with
            `parts`, for up to FEW rows.
    """
    (rows, inputs), outputs = x.shape, len(matrix)
    if x.is_cuda and x.dtype == torch.float32:
        out = F.linear(x, matrix, bias)
        out = F.gelu(out, approximate="tanh" if gelu == "tanh" else "none") if gelu else out
        return out if residual is None else out + residual
    out = torch.empty(rows, outputs, device=x.device, dtype=dtype or x.dtype)
    if not rows:
        return out
    few, shared = parts and rows <= FEW, _shared(x.device)
    count = -(-inputs // PART) if parts and rows <= SPREAD else 1
    nothing = x  # a pointer that is never read
    given: list[Any] = [
        nothing if bias is None else bias,
        nothing if residual is None else residual,
        out,
        x.new_empty(count, rows, outputs, dtype=torch.float32) if count > 1 else nothing,
        nothing if arrived is None else arrived,
    ]
    how: dict[str, Any] = {
        "outputs": outputs,
        "inputs": inputs,
        "part": PART if parts and inputs > PART else inputs,
        "parts": count,
        "biased": bias is not None,
        "gelu": gelu,
        "with_residual": residual is not None,
        "enable_fp_fusion": False,
    }
    if few:
        block_n, warps = few_tile(outputs, shared)
        block_k, padded = max(16, min(PART, triton.next_power_of_2(inputs))), 8 if rows <= 8 else 16
        how |= {"rows": rows, "padded": padded, "block_n": block_n, "block_k": block_k, "chained": chained}
        how |= {"num_warps": warps, **({"launch_pdl": True} if chained and torch.version.cuda else {})}
        _few_rows[(triton.cdiv(outputs, block_n), count)](x, matrix, *given, **how)
        return out
    block_m, block_n, block_k, warps, stages = tile(rows, outputs, inputs, shared)
    described = _described(x)
    sources: list[Any] = [x, matrix]
    if described:
        blocks = [block_m, block_k], [block_n, block_k]
        sources = [
            TensorDescriptor(source, list(source.shape), list(source.stride()), block)
            for source, block in zip(sources, blocks, strict=True)
        ]
    how |= {"block_m": block_m, "block_n": block_n, "block_k": block_k, "described": described}
    how |= {"num_warps": warps, "num_stages": stages}
    _many_rows[(triton.cdiv(rows, block_m) * triton.cdiv(outputs, block_n), count)](
        *[*sources, *given, rows], **how
    )
    return out


def counters(outputs: int, device: torch.device) -> Int[Tensor, " p"]:
    """Zeros, one for each tile whose parts several programs share, of products of so many outputs at most."""
    tiles: int = (SPREAD + LEAST - 1) // LEAST * ((outputs + LEAST - 1) // LEAST)
    return torch.zeros(tiles, device=device, dtype=torch.int32)


def _described(x: Tensor) -> bool:
    """Whether the copy engine can read rows like these, 16 bytes at a time: on Hopper and later."""
    hopper = x.is_cuda and torch.cuda.get_device_capability(x.device) >= (9, 0)
    return hopper and x.shape[1] * x.itemsize % 16 == 0


def _shared(device: torch.device) -> int:
    """Bytes of shared memory that a program can have."""
    if device.type != "cuda":
        return 232_448
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin

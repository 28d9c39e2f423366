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
MANY = 4096  # rows from which on a program fills its processor, and goes from tile to tile
LEAST = 16  # rows and outputs of a tile, at least
# Rows, outputs and inputs of a tile, warps and stages, from small to large.
TILES = (
    *((64, 32, 128, 4, 4), (64, 64, 64, 4, 6)),
    *((64, 128, 64, 4, 4), (64, 128, 64, 4, 3), (128, 128, 64, 8, 3)),
)
LARGE = (128, 256, 64, 8, 3)


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
def _finished(total, shift, residual, gelu: tl.constexpr):
    """What follows the product, in float32."""
    if shift is not None:
        total += shift
    if gelu == "exact":
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    if gelu == "tanh":  # x (1 + tanh(y)) / 2 = x / (1 + exp(-2 y)), whose root is an instruction
        twice = total * (-2.3022081985 - 0.1029432395 * (total * total))  # -2 y / ln 2
        root = tl.rsqrt(1.0 + tl.exp2(tl.minimum(twice, 126.0)))
        total = total * root * root
    if residual is not None:
        total += residual.to(tl.float32)
    return total


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
    gelu: tl.constexpr,
    described: tl.constexpr,
    large: tl.constexpr,
):
    tiles_m, tiles_n = tl.cdiv(rows, block_m), tl.cdiv(outputs, block_n)
    own = tl.cdiv(tiles_m * tiles_n - tl.program_id(0), tl.num_programs(0)) if large else 1
    for number in range(own):
        # Programs that run at the same time share rows and matrix: 8 rows of tiles, column by column.
        tile, band = tl.program_id(0) + number * tl.num_programs(0), 8 * tiles_n
        first = tile // band * 8
        height = min(tiles_m - first, 8)
        m, n = (first + tile % band % height) * block_m, (tile % band // height) * block_n
        row, column, k = m + tl.arange(0, block_m), n + tl.arange(0, block_n), tl.arange(0, block_k)
        here, below = (row < rows)[:, None], (column < outputs)[None, :]
        values, weights = x, matrix
        if not described:
            values = x + row[:, None].to(tl.int64) * inputs + k[None, :]
            weights = matrix + column[None, :].to(tl.int64) * inputs + k[:, None]
        shift = (
            tl.load(bias + column, mask=column < outputs, other=0.0)[None, :] if bias is not None else None
        )
        total = tl.zeros((block_m, block_n), tl.float32)
        if parts > 1 or part >= inputs:
            at = tl.program_id(1) * part if parts > 1 else 0
            total = _add_up(
                values, weights, total, at, part, m, n, k, here, below, inputs, block_k, described
            )
        else:
            for at in range(0, inputs, part):
                none = tl.zeros((block_m, block_n), tl.float32)
                total += _add_up(
                    values, weights, none, at, part, m, n, k, here, below, inputs, block_k, described
                )
        if large:
            beside = residual.load([m, n]) if residual is not None else None
            out.store([m, n], _finished(total, shift, beside, gelu).to(out.dtype))
        else:
            place, there = row[:, None].to(tl.int64) * outputs + column[None, :], here & below
            last = True
            if parts > 1:
                total, last = _summed(total, partial, arrived, rows * outputs, tile, place, there, parts)
            if last:
                beside = tl.load(residual + place, mask=there, other=0.0) if residual is not None else None
                total = _finished(total, shift, beside, gelu)
                tl.store(out + place, total.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def _few_rows(
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
    padded: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    gelu: tl.constexpr,
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
    shift = tl.load(bias + n, mask=n < outputs, other=0.0)[:, None] if bias is not None else None
    if chained:
        gdc_wait()
    r = tl.arange(0, padded)
    real = (r < rows)[None, :]
    values = tl.load(x + r[None, :] * inputs + start + k[:, None], mask=inside[:, None] & real, other=0.0)
    total = tl.dot(weights, values, input_precision="ieee")  # (output, row)
    # Else the compiler would begin the sum with the bias, which many rows add at its end.
    total = tl.where(real, total, 0.0)
    place, there = r[None, :] * outputs + n[:, None], real & here
    last = True
    if parts > 1:
        total, last = _summed(total, partial, arrived, rows * outputs, tl.program_id(0), place, there, parts)
    if last:
        beside = tl.load(residual + place, mask=there, other=0.0) if residual is not None else None
        total = _finished(total, shift, beside, gelu)
        tl.store(out + place, total.to(out.dtype.element_ty), mask=there)


def tile(rows: int, outputs: int, parts: int, device: torch.device) -> tuple[int, int, int, int, int]:
    """Of TILES the smallest whose programs run all at once, each part by its own; else the largest."""
    processors, shared = _machine(device)
    for block_m, block_n, block_k, warps, stages in TILES:
        each = 2 * (block_m + block_n) * block_k * stages + 1024  # bytes of shared memory
        if triton.cdiv(rows, block_m) * triton.cdiv(outputs, block_n) * parts <= processors * (
            shared // each
        ):
            return block_m, block_n, block_k, warps, stages
    return TILES[-1]


def few_tile(outputs: int, device: torch.device) -> tuple[int, int]:
    """Outputs of a program of `_few_rows` and warps, the fastest measured on an H200."""
    return (32, 2) if outputs <= 1024 or _machine(device)[1] < 150_000 else (64, 4)


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
    few = parts and rows <= FEW
    count = -(-inputs // PART) if parts and rows <= SPREAD else 1
    partial = x.new_empty(count, rows, outputs, dtype=torch.float32) if count > 1 else None
    how: dict[str, Any] = {
        "outputs": outputs,
        "inputs": inputs,
        "part": PART if parts and inputs > PART else inputs,
        "parts": count,
        "gelu": gelu,
        "enable_fp_fusion": False,
    }
    if few:
        block_n, warps = few_tile(outputs, x.device)
        block_k, padded = max(16, min(PART, triton.next_power_of_2(inputs))), 8 if rows <= 8 else 16
        how |= {"padded": padded, "block_n": block_n, "block_k": block_k, "chained": chained}
        how |= {"num_warps": warps, **({"launch_pdl": True} if chained and torch.version.cuda else {})}
        grid = (triton.cdiv(outputs, block_n), count)
        _few_rows[grid](x, matrix, bias, residual, out, partial, arrived, rows, **how)
        return out
    described = _described(x)
    large = (
        described
        and _described(out)
        and out.itemsize == 2
        and rows >= MANY
        and _machine(x.device)[1] >= 220_000
    )
    block_m, block_n, block_k, warps, stages = LARGE if large else tile(rows, outputs, count, x.device)
    tiles = triton.cdiv(rows, block_m) * triton.cdiv(outputs, block_n)
    programs = min(tiles, _machine(x.device)[0]) if large else tiles
    sources: list[Any] = [x, matrix, bias, residual, out]
    if described:
        sources[:2] = _descriptor(x, block_m, block_k), _descriptor(matrix, block_n, block_k)
    if large:
        sources[3:] = (each if each is None else _descriptor(each, block_m, block_n) for each in sources[3:])
    how |= {"block_m": block_m, "block_n": block_n, "block_k": block_k, "described": described}
    how |= {"large": large, "num_warps": warps, "num_stages": stages}
    _many_rows[(programs, count)](*[*sources, partial, arrived, rows], **how)
    return out


def counters(outputs: int, device: torch.device) -> Int[Tensor, " p"]:
    """Zeros, one for each tile whose parts several programs share, of products of so many outputs at most."""
    tiles: int = (SPREAD + LEAST - 1) // LEAST * ((outputs + LEAST - 1) // LEAST)
    return torch.zeros(tiles, device=device, dtype=torch.int32)


def _described(rows: Tensor) -> bool:
    """Whether the copy engine can move rows like these, 16 bytes at a time: on Hopper and later."""
    hopper = rows.is_cuda and torch.cuda.get_device_capability(rows.device) >= (9, 0)
    return hopper and rows.shape[1] * rows.itemsize % 16 == 0


def _descriptor(source: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """For the copy engine: a matrix by rectangles."""
    return TensorDescriptor(source, list(source.shape), list(source.stride()), [rows, columns])


def _machine(device: torch.device) -> tuple[int, int]:
    """Processors, and bytes of shared memory of each; an H200's where there is no GPU."""
    if device.type != "cuda":
        return 132, 233_472
    found = torch.cuda.get_device_properties(device)
    return found.multi_processor_count, found.shared_memory_per_multiprocessor

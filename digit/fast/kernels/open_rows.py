"""The vectors whose nearest centroid float16 products leave open: decided without the host knowing which."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_FEW = 16  # centroids a vector may be near to until all are compared
_PROGRAMS = 1024  # at most: each does one piece after the other, so that none need be counted beforehand
_REACH = {"ROWS": 128, "COLUMNS": 128, "DEPTH": 64, "num_warps": 8, "num_stages": 3}
_SEARCH = {"ROWS": 32, "COLUMNS": 256, "DEPTH": 16, "TILES": 2, "num_warps": 4, "num_stages": 3}
_NONE = 2**63 - 1  # larger than any key


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _reach(
    halves,
    centroids,
    half_squares,
    floors,
    rows,
    open_count,
    near,
    numbers,
    k,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    FEW: tl.constexpr,
):
    """For ROWS open vectors the centroids whose gain reaches their floor: FEW of them, and how many."""
    count = tl.load(open_count).to(tl.int32)
    column, channel = tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    mark = COLUMNS - 1 - column  # in the last bits of a gain, so that no two of a tile are the same
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        place = first + tl.arange(0, ROWS)
        row = tl.load(rows + place, mask=place < count, other=0)
        floor = tl.load(floors + row)
        floor = tl.where((place < count) & (tl.abs(floor) < float("inf")), floor, float("inf"))
        number = tl.zeros((ROWS,), tl.int32)
        for start in range(0, k, COLUMNS):
            products = tl.zeros((ROWS, COLUMNS), tl.float32)
            for depth in range(0, WIDTH, DEPTH):
                wide = (depth + channel)[None, :]
                x = tl.load(halves + row[:, None] * WIDTH + wide, mask=wide < WIDTH, other=0.0)
                c = centroids.load([start, depth])
                products = tl.dot(x, c.T, products)
            half = tl.load(half_squares + start + column, mask=start + column < k, other=3.0e38)
            gains = products - half[None, :]
            bits = (gains.to(tl.int32, bitcast=True) & -COLUMNS) | mark[None, :]
            gains = bits.to(tl.float32, bitcast=True)
            here = tl.sum((gains >= floor[:, None]).to(tl.int32), axis=1)
            for _ in range(tl.minimum(tl.max(here, axis=0), FEW + 1)):
                top = tl.max(gains, axis=1)
                found = start + COLUMNS - 1 - (top.to(tl.int32, bitcast=True) & (COLUMNS - 1))
                reached = top >= floor
                tl.store(near + place.to(tl.int64) * FEW + number, found, mask=reached & (number < FEW))
                number += reached.to(tl.int32)
                gains = tl.where(gains == top[:, None], -3.0e38, gains)
            floor = tl.where(number > FEW, float("inf"), floor)  # it is known to be too many
        tl.store(numbers + place, number, mask=place < count)


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _decide(
    rows,
    open_count,
    near,
    numbers,
    vectors,
    centroids,
    codes,
    others,
    other_count,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    FEW: tl.constexpr,
    NONE: tl.constexpr,
):
    """In float64 the nearest of the centroids of `_reach`; vectors for which these do not tell are listed."""
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    for place in range(tl.program_id(0), tl.load(open_count).to(tl.int32), tl.num_programs(0)):
        row = tl.load(rows + place)
        number = tl.load(numbers + place)
        code = tl.full((), NONE, tl.int64)
        if (number > 0) & (number <= FEW):
            x = tl.load(vectors + row * WIDTH + channel, mask=inside, other=0.0).to(tl.float64)
            least = tl.full((), float("inf"), tl.float64)
            its = near + tl.full((), FEW, tl.int64) * place
            for entry in range(number):
                found = tl.load(its + entry).to(tl.int64)
                c = tl.load(centroids + found * WIDTH + channel, mask=inside, other=0.0).to(tl.float64)
                distance = tl.sum((x - c) * (x - c), 0)
                better = (distance < least) | ((distance == least) & (found < code))
                code = tl.where(better, found, code)
                least = tl.minimum(least, distance)
        else:
            tl.store(others + tl.atomic_add(other_count, 1), row)
        tl.store(codes + row, code)


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _search(
    rows,
    open_count,
    vectors,
    centroids,
    half_squares,
    codes,
    k,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    TILES: tl.constexpr,
):
    """ROWS vectors against TILES of all centroids in float32: the smallest key (distance, centroid) stays."""
    parts = tl.cdiv(k, COLUMNS * TILES)
    count = tl.load(open_count).to(tl.int32)
    column, channel = tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    for piece in range(tl.program_id(0), tl.cdiv(count, ROWS) * parts, tl.num_programs(0)):
        place = piece // parts * ROWS + tl.arange(0, ROWS)
        row = tl.load(rows + place, mask=place < count, other=0).to(tl.int64)
        begin = piece % parts * COLUMNS * TILES
        for start in range(begin, tl.minimum(begin + COLUMNS * TILES, k), COLUMNS):
            code = (start + column).to(tl.int64)
            products = tl.zeros((ROWS, COLUMNS), tl.float32)
            for depth in range(0, WIDTH, DEPTH):
                wide = depth + channel < WIDTH
                at = row[:, None] * WIDTH + (depth + channel)[None, :]
                x = tl.load(vectors + at, mask=wide[None, :], other=0.0).to(tl.float32)
                at = code[:, None] * WIDTH + (depth + channel)[None, :]
                c = tl.load(centroids + at, mask=wide[None, :] & (code < k)[:, None], other=0.0)
                products = tl.dot(x, tl.trans(c), products, input_precision="ieee")
            half = tl.load(half_squares + code, mask=code < k, other=float("inf"))
            distance = half[None, :] - products
            distance = tl.where(distance == distance, distance, float("inf"))
            bits = distance.to(tl.int32, bitcast=True)
            ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)  # as the floats are
            key = tl.min((ordered << 32) | code[None, :], axis=1)
            tl.atomic_min(codes + row, key, mask=place < count)


@triton.jit
@no_type_check  # an annotation-checking wrapper would hide what Triton compiles
def _strip(rows, open_count, codes, BLOCK: tl.constexpr):
    """The centroids of keys."""
    count = tl.load(open_count).to(tl.int32)
    for first in range(tl.program_id(0) * BLOCK, count, tl.num_programs(0) * BLOCK):
        place = first + tl.arange(0, BLOCK)
        row = tl.load(rows + place, mask=place < count, other=0)
        key = tl.load(codes + row, mask=place < count, other=0)
        tl.store(codes + row, key & 0xFFFFFFFF, mask=place < count)


def decide(
    opened: Bool[Tensor, " m"],
    codes: Int[Tensor, " m"],
    *,
    halves: Float[Tensor, "m d"],
    vectors: Float[Tensor, "m d"],
    rounded: Float[Tensor, "k d"],
    centroids: Float[Tensor, "k d"],
    half_squares: Float[Tensor, " k"],
    floor: Float[Tensor, " m"],
) -> None:
    """Write the codes of the `opened` rows: in float64, the nearest of the centroids that may be it.

    These are those whose gain x.c - |c|^2 / 2, of the products of `halves` and `rounded`, reaches the row's
    floor. Where there are none or many, or the floor is not finite, all are compared as by `search`.
    """
    count, width = vectors.shape
    rows, number = _listed(opened)
    near = torch.empty(count, _FEW, dtype=torch.int32, device=vectors.device)
    numbers = torch.empty(count, dtype=torch.int32, device=vectors.device)
    others, other_number = torch.empty_like(rows), torch.zeros_like(number)
    _reach[(min(_PROGRAMS, triton.cdiv(count, _REACH["ROWS"])),)](
        halves,
        TensorDescriptor.from_tensor(rounded, [_REACH["COLUMNS"], _REACH["DEPTH"]]),
        half_squares,
        floor,
        rows,
        number,
        near,
        numbers,
        len(centroids),
        WIDTH=width,
        **_REACH,
        FEW=_FEW,
    )
    _decide[(min(4 * _PROGRAMS, count),)](
        rows,
        number,
        near,
        numbers,
        vectors,
        centroids,
        codes,
        others,
        other_number,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        FEW=_FEW,
        NONE=_NONE,
    )
    _search_all(others, other_number, codes, vectors=vectors, centroids=centroids, half_squares=half_squares)


def search(
    opened: Bool[Tensor, " m"],
    codes: Int[Tensor, " m"],
    *,
    vectors: Float[Tensor, "m d"],
    centroids: Float[Tensor, "k d"],
    half_squares: Float[Tensor, " k"],
) -> None:
    """Write the codes of the `opened` rows: the smallest |c|^2 / 2 - x.c of all centroids, in float32."""
    codes.masked_fill_(opened, _NONE)
    rows, number = _listed(opened)
    _search_all(rows, number, codes, vectors=vectors, centroids=centroids, half_squares=half_squares)


def _search_all(rows: Tensor, number: Tensor, codes: Tensor, **what: Tensor) -> None:
    vectors, centroids = what["vectors"], what["centroids"]
    pieces = triton.cdiv(len(rows), _SEARCH["ROWS"])
    pieces *= triton.cdiv(len(centroids), _SEARCH["COLUMNS"] * _SEARCH["TILES"])
    _search[(min(_PROGRAMS, pieces),)](
        rows,
        number,
        vectors,
        centroids,
        what["half_squares"],
        codes,
        len(centroids),
        WIDTH=vectors.shape[1],
        **_SEARCH,
    )
    _strip[(min(_PROGRAMS, triton.cdiv(len(rows), 256)),)](rows, number, codes, BLOCK=256)


def _listed(opened: Bool[Tensor, " m"]) -> tuple[Int[Tensor, " m"], Int[Tensor, ""]]:
    """The rows that are open, then zeros, and their number, without a wait for the GPU."""
    return torch.nonzero_static(opened, size=len(opened), fill_value=0).flatten(), opened.sum()

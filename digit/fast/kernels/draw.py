"""One code per row from its logits: guidance, top-k, top-p and the draw in one pass, and its embedding."""

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from digit.fast.kernels.noise import gumbel


@triton.jit
@no_type_check
def _add_pairs(first, second, other_first, other_second):
    """The sums of the firsts and of the seconds, for a reduction of a pair of tensors."""
    return first + other_first, second + other_second


@triton.jit
@no_type_check
def _threshold(scores, mass, goal, top):
    """The largest score that, with all above it, has mass of at least `goal`; the least one if none has.

    Halves the range of values until it holds one score, about log2 of their number of rounds; where scores
    are equal, until no number lies between its ends.
    """
    low = tl.min(tl.where(scores == float("-inf"), top, scores), 0)
    high = top + tl.maximum(tl.abs(top), 1.0) * 1e-6
    held = tl.sum((scores >= low).to(tl.int32), 0)  # scores from `low` on; `high` has none
    beyond = tl.zeros_like(held)  # scores from `high` on
    middle = low + 0.5 * (high - low)
    while (held - beyond > 1) & (middle > low) & (middle < high):
        inside = scores >= middle
        total, count = tl.reduce((tl.where(inside, mass, 0.0), inside.to(tl.int32)), 0, _add_pairs)
        if total >= goal:
            low = middle
            held = count
        else:
            high = middle
            beyond = count
        middle = low + 0.5 * (high - low)
    return tl.min(tl.where(scores >= low, scores, top), 0)


@triton.jit
@no_type_check
def _kept(scores, threshold, room):
    """Mask of what lies above a threshold, and of what equals it the first `room` in order of index."""
    tied = scores == threshold
    rank = tl.cumsum(tied.to(tl.int32), 0)
    return (scores > threshold) | (tied & (rank <= room))


# Longer than a function should be: in one kernel the logits are read once, which is all that it saves.
@triton.jit(do_not_specialize=["step"])
@no_type_check
def _draw(
    logits,
    keys,
    places,
    step,
    settings,
    guidance,
    counter,
    offset,
    codes,
    table,
    positions,
    embedded,
    confidence,
    rows,
    stride,
    rows_of_key,
    length,
    count,
    specials,
    width,
    last,
    embedding_scale,
    block: tl.constexpr,
    block_s: tl.constexpr,
    block_d: tl.constexpr,
    guided: tl.constexpr,
    greedy: tl.constexpr,
    top_k: tl.constexpr,
    top_p: tl.constexpr,
    of_vocabulary: tl.constexpr,
    placed: tl.constexpr,
    embed: tl.constexpr,
    confident: tl.constexpr,
    chained: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(counter) + offset  # written before the kernels that this one is chained to
    if not greedy:
        place = tl.load(places + row) if placed else position
        noise = gumbel(keys + 2 * (row // rows_of_key), place, step, block)
    if chained:
        # In this order: what follows begins only when all before has ended, so that within a position the
        # caches of the positions before it may be read at any time.
        gdc_wait()
        gdc_launch_dependents()
    v = tl.arange(0, block)
    there = v < count
    low = float("-inf")
    scores = tl.load(logits + row * stride + specials + v, mask=there, other=low).to(tl.float32)
    if guided:
        null = tl.load(logits + (row + rows) * stride + specials + v, mask=there, other=0.0).to(tl.float32)
        strength = tl.load(guidance + position)
        scores = tl.where(there, null + strength * (scores - null), low)
    logged = scores
    if not greedy:
        temperature = tl.load(settings).to(tl.float32)
        scores = tl.div_rn(scores, temperature)
        best = tl.max(scores, 0)
        if top_k:
            wanted = tl.load(settings + 2).to(tl.int32)
            one = tl.where(there, 1.0, 0.0)
            threshold = _threshold(scores, one, wanted.to(tl.float32), best)
            room = wanted - tl.sum((scores > threshold).to(tl.int32), 0)
            scores = tl.where(_kept(scores, threshold, room), scores, low)
        if top_p:
            mass = tl.exp(scores - best).to(tl.float64)
            goal = tl.load(settings + 1) * tl.sum(mass, 0)
            if of_vocabulary:  # the codes' share of all the probability there is
                s = tl.arange(0, block_s)
                known = s < specials
                others = tl.load(logits + row * stride + s, mask=known, other=low).to(tl.float32)
                if guided:
                    null_others = tl.load(logits + (row + rows) * stride + s, mask=known, other=0.0)
                    null_others = null_others.to(tl.float32)
                    others = tl.where(known, null_others + strength * (others - null_others), low)
                others = tl.where(known, tl.exp(tl.div_rn(others, temperature) - best), 0.0).to(tl.float64)
                goal = tl.load(settings + 1) * (tl.sum(mass, 0) + tl.sum(others, 0))
            threshold = _threshold(scores, mass, goal, best)
            above = tl.sum(tl.where(scores > threshold, mass, 0.0), 0)
            each = tl.max(tl.where(scores == threshold, mass, 0.0), 0)
            room = tl.ceil((goal - above) / tl.maximum(each, 1e-300))
            # More than there are where even all have too little between them.
            room = tl.minimum(tl.maximum(room, 1.0), 1e6).to(tl.int32)
            scores = tl.where(_kept(scores, threshold, room), scores, low)
        scores += noise
    best = tl.max(scores, 0)
    code = tl.min(tl.where(scores == best, v, count - 1), 0)  # of logits that are no numbers none equals it
    tl.store(codes + row * length + position, code.to(tl.int64))
    if confident:
        top = tl.max(logged, 0)
        spread = tl.sum(tl.where(there, tl.exp(logged - top), 0.0), 0)
        chosen = tl.sum(tl.where(v == code, logged, 0.0), 0)
        tl.store(confidence + row * length + position, chosen - top - tl.log(spread))
    if embed:
        c = tl.arange(0, block_d)
        inside = c < width
        vector = tl.load(table + code.to(tl.int64) * width + c, mask=inside, other=0.0) * embedding_scale
        after = tl.minimum(position + 1, last).to(tl.int64)  # nothing reads what follows the last code
        vector += tl.load(positions + after * width + c, mask=inside, other=0.0)
        vector = vector.to(embedded.dtype.element_ty)
        tl.store(embedded + row * width + c, vector, mask=inside)
        if guided:
            tl.store(embedded + (row + rows) * width + c, vector, mask=inside)


@dataclass(frozen=True)
class Filters:
    """Which parts of the kernel a sampler needs; their numbers lie on the device."""

    greedy: bool
    top_k: bool
    top_p: bool
    of_vocabulary: bool
    guided: bool


def draw(
    logits: Float[Tensor, "r v"],
    keys: Int[Tensor, "k 2"],
    codes: Int[Tensor, "b n"],
    filters: Filters,
    *,
    settings: Float[Tensor, "3"],
    counter: Int[Tensor, ""],
    offset: int = 0,
    count: int,
    specials: int = 0,
    guidance: Float[Tensor, " n"] | None = None,
    tables: tuple[Tensor, Tensor, float] | None = None,
    embedded: Float[Tensor, "r d"] | None = None,
    confidence: Float[Tensor, "b n"] | None = None,
    places: Int[Tensor, " b"] | None = None,
    step: int = 0,
    chained: bool = False,
) -> None:
    """Write the codes of position `counter + offset`, and the input that embeds them.

    Means the same as digit.nn.sampling.draw and rounds as it does, but for the masses of top-p: they are sums
    of float64 in another order.

    Args:
        logits: b rows, or with guidance 2 b: conditional ones, then those without a label. Columns beyond
            specials + count are not read.
        keys: as digit.nn.noise.keys gives them, on the device; each serves b / k rows, one after another.
        codes: int64, written at the position.
        filters: what is done.
        settings: float64: temperature, top-p, top-k.
        counter: int32, positions drawn before; on the device, so that one graph serves every position.
        offset: added to the counter.
        count: codes.
        specials: logits before those of the codes.
        guidance: float32, one for each position.
        tables: embeddings of the codes, of the positions, and the factor of the former.
        embedded: takes table[code] * factor + positions[position + 1], in both halves when guided.
        confidence: takes the log-probability of each code at temperature 1, before filters.
        places: of each row's noise; the position if left out.
        step: of the noise.
        chained: as in `linear.linear`.
    """
    rows, length = codes.shape
    table, positions, factor = tables if tables is not None else (codes, codes, 1.0)
    width = table.shape[1] if tables is not None else 1
    block = max(8, triton.next_power_of_2(count))
    _draw[(rows,)](
        logits,
        keys,
        codes if places is None else places,
        step,
        settings,
        codes if guidance is None else guidance,
        counter,
        offset,
        codes,
        table,
        positions,
        codes if embedded is None else embedded,
        codes if confidence is None else confidence,
        rows,
        logits.stride(0),
        rows // len(keys),
        length,
        count,
        specials,
        width,
        len(positions) - 1,
        factor,
        block=block,
        block_s=triton.next_power_of_2(max(1, specials)),
        block_d=triton.next_power_of_2(width),
        guided=filters.guided,
        greedy=filters.greedy,
        top_k=filters.top_k,
        top_p=filters.top_p,
        of_vocabulary=filters.of_vocabulary,
        placed=places is not None,
        embed=tables is not None,
        confident=confidence is not None,
        chained=chained,
        **{"num_warps": 8 if block >= 4096 else 4 if block >= 512 else 1},
        **{"enable_fp_fusion": False},  # for the noise
        **({"launch_pdl": True} if chained and torch.version.cuda else {}),
    )

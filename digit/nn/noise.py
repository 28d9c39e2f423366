"""seed, stage, step, place and code -> Gumbel and Gaussian noise: the same bits on every machine."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.calls import checked
from digit.nn.forms import replaceable

AT_ONCE = 2**16  # numbers whose every intermediate array lies in a processor's own memory

LN_2 = 0.6931471824645996
# Interpolated at the Chebyshev nodes of degree 8 and rounded to float32; lowest power first. Relative errors
# are below 3e-8 before rounding. -ln(1 - t) / t for t in [0, 1/2]:
LOG_REST = (
    1.0,
    0.4999937415122986,
    0.3336620032787323,
    0.24343743920326233,
    0.26454758644104004,
    -0.18157164752483368,
    1.2050138711929321,
    -1.6302117109298706,
    1.4079567193984985,
)
# -ln(1 + f) / f for 1 + f in [sqrt(1/2), sqrt(2)]:
LOG_MANTISSA = (
    -1.0,
    0.4999999701976776,
    -0.33334192633628845,
    0.250013530254364,
    -0.19955933094024658,
    0.1657799333333969,
    -0.14977401494979858,
    0.14269258081912994,
    -0.08533313125371933,
)
SQRT_HALF = 0x3F3504F3  # the bits of sqrt(1/2) in float32
# sin(pi y / 2) / y for y^2 in [0, 1], by powers of y^2; within 7e-9.
SINE = (
    1.5707963705062866,
    -0.6459637880325317,
    0.07968991994857788,
    -0.004674143623560667,
    0.00015167170204222202,
)


@checked
def keys(seeds: Sequence[int] | Int[Tensor, " b"], *, stage: str) -> Int[Tensor, "b 2"]:
    """The bits of two 64-bit keys per seed, any whole number; on the CPU.

    The stage is what draws, so that those given one seed do not share noise.
    """
    digests = [hashlib.sha256(f"{stage}:{int(seed)}".encode()).digest()[:16] for seed in seeds]
    return torch.from_numpy(np.frombuffer(b"".join(digests), "<i8").astype(np.int64).reshape(-1, 2))


def gumbels(
    keys: Int[Tensor, "*#b 2"], places: Int[Tensor, "*#b"], count: int, *, step: int = 0
) -> Float[Tensor, "*b n"]:
    """Gumbel noise of the first `count` codes at each place: float32, on the CPU.

    A number is a function of its key, place, step and code alone. It is made of 32 bits of Philox 4x64-10
    (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") with the counter [1 + code // 8,
    place, step, 0], by operations that every processor rounds alike.

    Args:
        keys: as `keys` gives them.
        places: whole numbers from 0, as positions. They and the keys are broadcast.
        count: numbers of each row.
        step: whole number from 0, of stages that draw at a place more than once.
    """
    shape = torch.broadcast_shapes(keys.shape[:-1], places.shape)
    row_keys = keys.cpu().expand(*shape, 2).reshape(-1, 2).numpy().view(np.uint64)
    row_places = places.cpu().expand(shape).reshape(-1).numpy()
    out = np.empty((len(row_places), count), np.float32)
    for rows, words in _words(row_keys, row_places, step, (count + 1) // 2):
        out[rows] = gumbel(words[:, :count])
    return torch.from_numpy(out).view(*shape, count)


@replaceable
def gaussians(keys: Int[Tensor, "b 2"], count: int) -> Float[Tensor, "b n"]:
    """Independent normal numbers for each key, float32, on its device; the first do not depend on `count`.

    Of pairs of the words that `gumbels` has at place 0 and step 0, by the way of Box and Muller (1958), and
    by operations that every processor rounds alike.
    """
    out = np.empty((len(keys), -(-count // 2), 2), np.float32)
    row_keys, none = keys.cpu().numpy().view(np.uint64), np.zeros(len(keys), np.int64)
    for rows, words in _words(row_keys, none, 0, out.shape[1]):
        radius = np.sqrt(exponential(words[:, 0::2]) * np.float32(2))
        quarter, angle = words[:, 1::2] >> 30, (words[:, 1::2] & (2**30 - 1)).astype(np.float32)
        y = angle * np.float32(2**-30)  # in quarters of a turn
        sine, cosine = (each * polynomial(each * each, SINE) for each in (y, np.float32(1) - y))
        odd = quarter % 2 == 1
        first, second = np.where(odd, -sine, cosine), np.where(odd, cosine, sine)
        sign = np.where(quarter > 1, np.float32(-1), np.float32(1))
        out[rows] = np.stack((radius * first * sign, radius * second * sign), -1)
    return torch.from_numpy(out).flatten(1)[:, :count].to(keys.device)


def _words(keys: np.ndarray, places: np.ndarray, step: int, count: int) -> Iterator[tuple[slice, np.ndarray]]:
    """The first 2 x count words of 32 bits of each key and place, some rows at a time."""
    raw = np.empty((max(1, AT_ONCE // max(1, 2 * count)), count), "<u8")
    generator = np.random.Philox(0)  # its state is set for each row: to make one takes longer
    state = generator.state
    counter, key = state["state"]["counter"], state["state"]["key"]
    for start in range(0, len(places), len(raw)):
        rows = slice(start, min(start + len(raw), len(places)))
        for row in range(start, rows.stop):
            key[:] = keys[row]
            counter[:] = 0, places[row], step, 0  # it counts on before each block of four
            generator.state = state
            raw[row - start] = generator.random_raw(count)
        yield rows, raw[: rows.stop - start].view("<u4")


def gumbel(words: np.ndarray) -> np.ndarray:
    """-ln(-ln((word | 1) / 2^32)) of uint32 words, within 2e-7 of the larger of 1 and itself; float32."""
    waited = exponential(words)
    bits = waited.view(np.int32)
    e = (bits - np.int32(SQRT_HALF)) >> 23
    f = (bits - (e << 23)).view(np.float32) - np.float32(1)
    return f * polynomial(f, LOG_MANTISSA) - e.astype(np.float32) * np.float32(LN_2)


def exponential(words: np.ndarray) -> np.ndarray:
    """-ln((word | 1) / 2^32) of uint32 words, within 1e-7 of itself; float32.

    Only whole numbers, and products and sums that are each rounded to the nearest float32.
    """
    a = words | np.uint32(1)
    # a = 2^(k + 1) (1 - t): the logarithm of neither a small number nor one near 1 loses digits.
    k = np.minimum((a.astype(np.float32).view(np.int32) >> 23) - 127, 31)
    rest = (np.uint32(2) << k.view(np.uint32)) - a
    t = rest.astype(np.float32) * ((126 - k) << 23).view(np.float32)
    return (31 - k).astype(np.float32) * np.float32(LN_2) + t * polynomial(t, LOG_REST)


def polynomial(x: np.ndarray, coefficients: Sequence[float]) -> np.ndarray:
    """Horner's rule in float32."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total *= x
        total += np.float32(coefficient)
    return total

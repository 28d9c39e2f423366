"""features -> codes: K-means over a sample of features, and the nearest centroid (DiGIT, section 3.2)."""

import hashlib
import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.distributed import add_up, gather, gather_rows
from digit.errors import DigitError
from digit.nn.nearest import (
    Halves,
    Precision,
    Table,
    exact_products,
    halve,
    has_kernels,
    nearest,
    prepare,
    rows_at_once,
)


class Reservoir:
    """A uniform sample without replacement of a stream of vectors of unknown length.

    Every vector draws a number, a function of the seed and of its place, and the `capacity` smallest are
    kept: the sample depends neither on the pieces the stream arrives in nor on the process that sees them.
    The published code dumps 32.8M vectors (100 GB) and faiss then keeps 256 for each centroid; keeping only
    those is equivalent.

    Args:
        capacity: vectors kept; 256 for each centroid is faiss's own limit.
        seed: of the draw.
        device: where the sample is kept, float32: capacity x width x 4 bytes.
    """

    def __init__(self, capacity: int, seed: int = 0, *, device: torch.device | str = "cpu") -> None:
        self.capacity = capacity
        self._seed, self._device = seed, torch.device(device)
        self.seen = self._held = 0  # vectors offered, and held
        self._kept: Tensor | None = None
        self._draws = torch.full((capacity,), _LARGEST)
        self._places = torch.full((capacity,), -1)

    def __len__(self) -> int:
        """Vectors held now."""
        return self._held

    @torch.no_grad()
    def add(self, features: Float[Tensor, "m d"], places: Int[Tensor, " m"] | None = None) -> None:
        """Offer the next vectors; their places in the whole stream count from 0 if left out, none twice."""
        if places is None:
            places = torch.arange(self.seen, self.seen + len(features))
        self.seen += len(features)
        draws = _draws(places, self._seed)
        if self._kept is None:
            self._kept = torch.empty(self.capacity, features.shape[1], device=self._device)
        held = self._held
        free = min(self.capacity - held, len(features))
        self._held += free
        self._put(torch.arange(held, held + free), features[:free], draws[:free], places[:free])
        # Once full, only draws below the largest kept one can enter: a share that falls along the stream.
        rivals = free + torch.nonzero(draws[free:] < self._draws.max()).flatten()
        if len(rivals) == 0:
            return
        count = min(len(rivals), self.capacity)
        rows = self._draws.topk(count).indices
        both = torch.cat([self._draws[rows], draws[rivals]])
        stays = torch.zeros(len(both), dtype=torch.bool)
        stays[both.topk(count, largest=False).indices] = True
        rows, rivals = rows[~stays[:count]], rivals[stays[count:]]
        self._put(rows, features[rivals.to(features.device)], draws[rivals], places[rivals])

    def _put(self, rows: Tensor, features: Tensor, draws: Tensor, places: Tensor) -> None:
        """Overwrite rows of the sample."""
        assert self._kept is not None
        self._kept[rows.to(self._device)] = features.to(self._device, torch.float32)
        self._draws[rows], self._places[rows] = draws, places

    @torch.no_grad()
    def over_processes(self) -> None:
        """Leave here this process's share of the sample of all streams; no vector moves between processes.

        Raises:
            DigitError: no process was given a vector.
        """
        width = max(gather(0 if self._kept is None else self._kept.shape[1]))
        if self._kept is None and width:  # more processes than pictures
            self._kept = torch.empty(self.capacity, width, device=self._device)
        if self._kept is None:
            raise DigitError(_NOTHING)
        draws = self._draws[: self._held].sort().values
        low, high = -_LARGEST - 1, _LARGEST
        while low < high:  # find the largest draw of the whole sample; no two are equal
            middle = (low + high) // 2
            below = torch.searchsorted(draws, torch.tensor([middle]), right=True)
            add_up(below)
            low, high = (low, middle) if int(below) >= self.capacity else (middle + 1, high)
        self._take(torch.nonzero(self._draws[: self._held] <= low).flatten())

    @property
    def vectors(self) -> Float[Tensor, "m d"]:
        """The sample in the order of the places; a view of it, not a copy.

        Raises:
            DigitError: nothing was added yet.
        """
        if self._kept is None:
            raise DigitError(_NOTHING)
        self._take(self._places[: self._held].argsort())
        return self._kept[: self._held]

    @property
    def places(self) -> Int[Tensor, " m"]:
        """The places of `vectors`, rising."""
        return self._places[: self._held].sort().values

    def _take(self, rows: Tensor) -> None:
        """Keep these rows of those held, in this order."""
        assert self._kept is not None
        if not torch.equal(rows, torch.arange(self._held)):
            on_device, count = rows.to(self._device), len(rows)
            for columns in self._kept.split(64, dim=1):  # a copy of 64 channels at a time, not of all
                columns[:count] = columns[on_device]
            self._draws[:count] = self._draws[rows]
            self._places[:count] = self._places[rows]
            self._held = count


_NOTHING = "no features were seen: give at least one readable picture"
_LARGEST = torch.iinfo(torch.int64).max


def _draws(places: Int[Tensor, " m"], seed: int) -> Int[Tensor, " m"]:
    """A number for each place, evenly spread over int64, no two equal: SplitMix64 (Steele et al. 2014)."""
    first = int.from_bytes(hashlib.sha256(f"reservoir:{seed}".encode()).digest()[:8], "little", signed=True)
    mixed = places.cpu() * _signed(0x9E3779B97F4A7C15) + first
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ _shifted(mixed, shift)) * _signed(factor)
    return mixed ^ _shifted(mixed, 31)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _shifted(words: Tensor, count: int) -> Tensor:
    """Bits moved right, zeros moved in: torch's >> moves in the sign."""
    return (words >> count) & ((1 << (64 - count)) - 1)


@dataclass(frozen=True)
class KMeansResult:
    """What `fit` found; counts and the last inertia belong to the returned centroids."""

    centroids: Float[Tensor, "k d"]  # float32
    inertia: list[float]  # sum of squared distances at the start of each iteration, and at the end
    counts: Int[Tensor, " k"]  # vectors nearest to each centroid
    iterations: int  # updates done; fewer than asked for when the codes stopped changing


@torch.no_grad()
def fit(
    vectors: Float[Tensor, "m d"],
    k: int,
    *,
    iterations: int = 20,
    seed: int = 0,
    start: Float[Tensor, "k d"] | None = None,
    places: Int[Tensor, " m"] | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
    chunk: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> KMeansResult:
    """Lloyd's K-means with faiss's choices: k random vectors to start from, empty clusters split a large one.

    Distances are exact float32. Sums do not depend on the order in which a GPU works, so neither do the
    centroids. Nothing of size m x k is ever held.

    Several processes may share the work, each with its vectors and their `places`: sums, counts and inertia
    are added up, and all of them return the same. The starting vectors, and so the result but for the
    rounding of sums, are those of one process with all vectors.

    Args:
        vectors: the sample; may stay on the CPU while `device` is a GPU. There it is held whole if it fits.
        k: number of centroids.
        iterations: updates at most.
        seed: of the starting vectors.
        start: centroids to start from instead.
        places: rising, of these vectors in the order of all; without it each process works by itself.
        device: where the distances are computed; where the vectors are if left out.
        precision: of the products while centroids still move; the last codes are exact in any case.
        chunk: vectors at once; from the memory there is if left out.
        progress: called with the number of updates done.

    Raises:
        DigitError: no centroids, fewer vectors than centroids, or a vector that is not finite.
    """
    # A tensor's device has the number of the GPU, without which "cuda" would not be where the vectors are.
    place = torch.empty(0, device=vectors.device if device is None else device).device
    if k < 1:
        raise DigitError(f"{k} clusters cannot be made: choose one or more")
    sample = _Sample(vectors, place, k, chunk, together=places is not None)  # a GPU works on this meanwhile
    ends = [(len(vectors), len(vectors) - 1)]
    if places is not None:
        ends = gather((len(places), int(places[-1]) if len(places) else -1))
    count = sum(length for length, _ in ends)
    if count < k:
        raise DigitError(
            f"{count} feature vectors cannot make {k} clusters: choose fewer clusters or more pictures"
        )
    if start is None:
        chosen = _chosen(count, k, seed)
        if places is None:
            start = vectors[chosen.to(vectors.device)]
        else:
            if max(end for _, end in ends) >= count:  # some places are left out
                chosen = _nth(places, chosen, place)
            start = _fetch(vectors, places, chosen)
    table = prepare(start.to(place, torch.float32, copy=True))
    steps: list[Precision] = [precision] * iterations
    steps.append("float32")
    inertia: list[float] = []
    ahead = sample.sort(table, steps[0], None)
    for done, exact in enumerate(steps):
        codes, sums, counts, moved = ahead
        centroids, total = sample.update(table.centroids, sums, counts)
        following = prepare(centroids)
        reading = _Reading(total, moved, counts.min())
        # A GPU goes on while the host reads: in vain if that was the end, or a cluster is empty.
        gone_on = sample.fused and done < iterations
        if gone_on:
            ahead = sample.sort(following, steps[done + 1], codes)
        seen, changed, smallest = reading.wait()
        settled = changed == 0
        if settled and exact != "float32":
            _, sums, counts, _ = sample.sort(table, "float32", None)
            (seen,) = _Reading(sample.update(table.centroids, sums, counts)[1]).wait()
        inertia.append(max(seen, 0.0))
        if not math.isfinite(inertia[-1]):
            raise DigitError(
                "a feature is not finite, so K-means has no answer: check the encoder's weights and precision"
            )
        if done == iterations or settled:
            return KMeansResult(table.centroids, inertia, counts, done)
        table = following
        if smallest == 0:
            _split_empty(centroids, counts)
            table = prepare(centroids)
            ahead = sample.sort(table, steps[done + 1], None)  # so that a split never passes for convergence
        elif not gone_on:
            ahead = sample.sort(table, steps[done + 1], codes)
        if progress is not None:
            progress(done + 1)
    raise AssertionError("the loop returns in its last round")


# On the host numpy: torch would wake its threads for it, which takes longer than the work.


def _chosen(count: int, k: int, seed: int) -> Int[Tensor, " k"]:
    """The first k of torch.randperm(count), faiss's own for a seed one less, in the time of k numbers.

    The exchanges of a Fisher-Yates shuffle by the Mersenne Twister of `seed`; the few that meet are followed.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.empty((k + 1) // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator).numpy()
    words = np.stack([pairs >> 32, pairs], axis=1).ravel() & 0xFFFFFFFF
    place = np.arange(k)
    there = place + words[:k] % (count - place)
    # An exchange concerns others only if its place is among the first k, or is met twice.
    _, met, times = np.unique(there, return_inverse=True, return_counts=True)
    inside = there < k
    shared = inside | (times[met] > 1)
    shared[there[inside]] = True
    chosen, moved = there.copy(), {}
    for here in np.flatnonzero(shared).tolist():
        to = int(there[here])
        chosen[here] = moved.get(to, to)
        moved[to] = moved.get(here, here)
    return torch.from_numpy(chosen)


def _nth(places: Tensor, wanted: Tensor, place: torch.device) -> Tensor:
    """The wanted-th smallest of all processes' places, which rise in each; on the CPU."""
    parts = gather_rows(places.to(place))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts).sort().values
    return whole[wanted.to(whole.device)].cpu()


def _fetch(vectors: Tensor, places: Tensor, wanted: Tensor) -> Tensor:
    """The vectors at the `wanted` places, each from the process that has it."""
    found = vectors.new_zeros(len(wanted), vectors.shape[1])
    if len(places):
        given, asked = places.cpu().numpy(), wanted.numpy()
        rows = np.searchsorted(given, asked).clip(max=len(given) - 1)
        here = np.flatnonzero(given[rows] == asked)
        mine = torch.from_numpy(rows[here]).to(vectors.device)
        found[torch.from_numpy(here).to(vectors.device)] = vectors[mine]
    add_up(found)
    return found


@torch.no_grad()
def assign(
    features: Float[Tensor, "... d"],
    centroids: Float[Tensor, "k d"],
    *,
    squares: Float[Tensor, " k"] | None = None,
    half: bool = False,
    precision: Precision = "float32",
    chunk: int | None = None,
) -> Int[Tensor, "..."]:
    """The nearest centroid of each feature by squared Euclidean distance; the lowest index on ties.

    Exact float32 also inside autocast and where TF32 is allowed; `precision` float16 rounds features and
    centroids before their products, which changes a code in some thousands. `chunk` is the number of vectors
    at once. `squares` takes the place of |c|^2. `half` computes |x|^2 - 2 x.c + |c|^2 in float16, as the
    published training does: near neighbours then swap, since float16 resolves these sums to 1 or 2.
    """
    flat = features.flatten(0, -2) if features.ndim > 1 else features[None]
    centroids = centroids.float()
    squares = centroids.square().sum(1) if squares is None else squares.float()
    if half:
        with exact_products(features.device):
            parts = [
                _nearest_half(part, centroids, squares)
                for part in flat.split(chunk or rows_at_once(centroids))
                if len(part)
            ]
        codes = torch.cat(parts) if parts else flat.new_empty(0, dtype=torch.int64)
    else:
        codes = nearest(flat, prepare(centroids, squares), precision=precision, chunk=chunk)
    return codes.view(features.shape[:-1])


def _nearest_half(vectors: Tensor, centroids: Tensor, squares: Tensor) -> Tensor:
    vectors, centroids, squares = vectors.half(), centroids.half(), squares.half()
    distances = vectors.square().sum(1, keepdim=True) - 2 * (vectors @ centroids.T) + squares
    return distances.argmin(dim=1)


class _Sample:
    """The vectors of one fit: on the device if there is room, else moved piece by piece.

    `together`: of the processes' vectors together, each holding its own.
    """

    def __init__(
        self, vectors: Tensor, place: torch.device, k: int, chunk: int | None, *, together: bool = False
    ) -> None:
        self.place, self.k, self.together = place, k, together
        self.fused = has_kernels(place, vectors.shape[1])
        # A GPU without the kernels, or a CPU, holds a chunk's distances to all centroids.
        rows = 1 << 20 if self.fused else rows_at_once(torch.empty(k, 0, device=place))
        if place != vectors.device and vectors.nbytes < 0.6 * _free_bytes(place):
            vectors = vectors.to(place)
        self.parts = [part for part in vectors.split(chunk or rows) if len(part)]
        self.halves: list[Halves | None] = [None] * len(self.parts)
        here = self.fused and vectors.device == place
        if here and 2 * vectors.numel() < 0.6 * _free_bytes(place):
            self.halves = [halve(part) for part in self.parts]
        lengths = torch.zeros((), dtype=torch.float64, device=place)
        for part in vectors.split(1 << 14):
            lengths += torch.linalg.vector_norm(part.to(place), dtype=torch.float64).square()
        if together:
            add_up(lengths)
        self.lengths = lengths  # sum of all |x|^2

    def sort(
        self, table: Table, precision: Precision, before: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes of the vectors here, per centroid the float64 sum and the number of its own, of all, and how
        many of all codes are not those of `before`: without it, all.
        """
        sums = torch.zeros_like(table.centroids, dtype=torch.float64)
        counts = torch.zeros(self.k, dtype=torch.int64, device=self.place)
        found = [counts.new_empty(0)]
        for part, halves in zip(self.parts, self.halves, strict=True):
            part = part.to(self.place, non_blocking=True)
            codes = nearest(part, table, precision=precision, halves=halves, chunk=len(part))
            if self.fused:
                from digit.fast.kernels.segments import add_segments  # Triton exists on GPU machines only

                add_segments(sums, counts, part, codes)
            else:
                # A GPU adds in no fixed order; in float64 that order does not reach the rounded centroids.
                sums.index_add_(0, codes, part.double())
                counts += torch.bincount(codes, minlength=self.k)
            found.append(codes)
        codes = torch.cat(found)
        moved = counts.new_tensor(len(codes)) if before is None else torch.count_nonzero(codes != before)
        numbers = torch.cat([counts, moved[None]])
        if self.together:
            add_up(sums, numbers)
        return codes, sums, numbers[:-1], numbers[-1]

    def update(self, centroids: Tensor, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The next centroids, and the inertia of these: |x|^2 - 2 x.c + |c|^2, by each one's sum of x."""
        if self.fused:
            from digit.fast.kernels.segments import means

            following, losses = means(sums, counts, centroids)
        else:
            wide = centroids.double()
            losses = (wide * (counts[:, None] * wide - 2 * sums)).sum(1)
            following = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], wide).float()
        return following, self.lengths + losses.sum()


class _Reading:
    """Numbers of a device on their way to the host."""

    def __init__(self, *numbers: Tensor) -> None:
        there = torch.stack([number.double() for number in numbers])
        self._here = torch.empty(there.shape, dtype=there.dtype, pin_memory=there.is_cuda)
        self._here.copy_(there, non_blocking=True)
        self._event = torch.cuda.current_stream(there.device).record_event() if there.is_cuda else None

    def wait(self) -> list[float]:
        """They, once they have come; what the device was given since goes on."""
        if self._event is not None:
            self._event.synchronize()
        return self._here.tolist()


def _free_bytes(device: torch.device) -> float:
    """Memory of a device that can still be had."""
    if device.type != "cuda":
        return math.inf
    return torch.cuda.mem_get_info(device)[0] + (
        torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    )


def _split_empty(centroids: Tensor, counts: Tensor) -> None:
    """Give each empty cluster half of the largest one, in place, as faiss does."""
    sizes = counts.tolist()
    empty = [index for index, size in enumerate(sizes) if size == 0]
    largest_first = [(-size, index) for index, size in enumerate(sizes) if size > 0]
    heapq.heapify(largest_first)
    nudge = torch.full((centroids.shape[1],), 1 / 1024, device=centroids.device)
    nudge[1::2] *= -1  # faiss's perturbation: opposite signs on even and odd channels
    for index in empty:
        negative, largest = largest_first[0]
        half = -negative // 2
        centroids[index] = centroids[largest] * (1 + nudge)
        centroids[largest] *= 1 - nudge
        heapq.heapreplace(largest_first, (negative + half, largest))
        heapq.heappush(largest_first, (-half, index))

"""features -> codes: K-means over a sample of features, and the nearest centroid (DiGIT, section 3.2)."""

import hashlib
import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.bounds import Count, Seed, Whole
from digit.calls import checked
from digit.distributed import add_up, gather, gather_rows
from digit.errors import DigitError
from digit.nn.checks import check_device
from digit.nn.nearest import exact_products, nearest, rows_at_once


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

    @checked
    def __init__(self, capacity: Count, seed: Seed = 0, *, device: torch.device | str = "cpu") -> None:
        self.capacity = capacity
        self._seed, self._device = seed, check_device(device)
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
    # Its three factors, less 2**64: int64 has a sign.
    mixed = places.cpu() * -0x61C8864680B583EB + first
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ _shifted(mixed, shift)) * factor
    return mixed ^ _shifted(mixed, 31)


def _shifted(words: Tensor, count: int) -> Tensor:
    """Bits moved right, zeros moved in: torch's >> moves in the sign."""
    return (words >> count) & ((1 << (64 - count)) - 1)


@dataclass(frozen=True)
class KMeansResult:
    """What `fit` found, on its device; counts and the last inertia belong to the returned centroids."""

    centroids: Float[Tensor, "k d"]  # float32
    inertia: list[float]  # sum of squared distances at the start of each iteration, and at the end
    counts: Int[Tensor, " k"]  # vectors nearest to each centroid
    iterations: int  # updates done; fewer than asked for when the codes stopped changing


@checked
@torch.no_grad()
def fit(
    vectors: Float[Tensor, "m d"],
    k: Count,
    *,
    iterations: Whole = 20,
    seed: Seed = 0,
    start: Float[Tensor, "k d"] | None = None,
    places: Int[Tensor, " m"] | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> KMeansResult:
    """Lloyd's K-means with faiss's choices: k random vectors to start from, empty clusters split a large one.

    Distances are exact float32. Sums are float64, where the order in which a GPU adds does not reach the
    rounded centroids. Nothing of size m x k is ever held.

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
        progress: called with the number of updates done.

    Raises:
        DigitError: no centroids, fewer vectors than centroids, or a vector that is not finite.
    """
    device = None if device is None else check_device(device)
    # A tensor's device has the number of the GPU, without which "cuda" would not be where the vectors are.
    device = torch.empty(0, device=vectors.device if device is None else device).device
    together = places is not None
    count = sum(gather(len(vectors))) if together else len(vectors)
    if count < k:
        raise DigitError(
            f"{count} feature vectors cannot make {k} clusters: choose fewer clusters or more pictures"
        )
    if start is not None and start.shape != (k, vectors.shape[1]):
        raise DigitError(
            f"start: give a row per cluster as wide as the vectors, ({k}, {vectors.shape[1]}), not "
            f"{tuple(start.shape)}"
        )
    if start is None:
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:k]
        start = _fetch(vectors, places, chosen) if together else vectors[chosen.to(vectors.device)]
    centroids = start.to(device, torch.float32, copy=True)
    if device != vectors.device:
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if vectors.nbytes < 0.6 * (torch.cuda.mem_get_info(device)[0] + unused):
            vectors = vectors.to(device)
    lengths = _lengths(vectors, device, together=together)
    inertia: list[float] = []
    codes: Tensor | None = None  # unknown until the first iteration, and after a split
    for done in range(iterations + 1):
        codes, sums, counts, moved = _assign_and_sum(vectors, centroids, codes, together=together)
        wide = centroids.double()
        losses = (wide * (counts[:, None] * wide - 2 * sums)).sum(1)  # |c|^2 - 2 x.c, over each one's x
        inertia.append(max(float(lengths + losses.sum()), 0.0))
        if not math.isfinite(inertia[-1]):
            raise DigitError(
                "a feature is not finite, so K-means has no answer: check the encoder's weights and precision"
            )
        if done == iterations or moved == 0:
            break
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], wide).float()
        if (counts == 0).any():
            _split_empty(centroids, counts)
            codes = None  # so that a split never passes for convergence
        if progress is not None:
            progress(done + 1)
    return KMeansResult(centroids, inertia, counts, len(inertia) - 1)


def _assign_and_sum(
    vectors: Tensor, centroids: Tensor, before: Tensor | None, *, together: bool
) -> tuple[Int[Tensor, " m"], Float[Tensor, "k d"], Int[Tensor, " k"], int]:
    """Codes of the vectors; per centroid the float64 sum and the number of its own; codes not as `before`.

    All but the codes are of all processes. Without `before` all codes count as moved.
    """
    k, device = len(centroids), centroids.device
    squares = centroids.square().sum(1)
    sums = torch.zeros_like(centroids, dtype=torch.float64)
    counts = torch.zeros(k, dtype=torch.int64, device=device)
    found = []
    for part in vectors.split(rows_at_once(k, device) if device.type == "cpu" else _ON_GPU):
        part = part.to(device)
        codes = nearest(part, centroids, squares)
        # float64 has 29 bits more than a float32 number: but for one in a million additions, of a number
        # that is tiny beside the sum, nothing is rounded here, and so the order of a GPU does not matter.
        sums.index_add_(0, codes, part.double())
        counts += torch.bincount(codes, minlength=k)
        found.append(codes)
    codes = torch.cat(found)
    moved = len(codes) if before is None else torch.count_nonzero(codes != before)
    numbers = torch.cat([counts, counts.new_tensor([moved])])
    if together:
        add_up(sums, numbers)
    return codes, sums, numbers[:-1], int(numbers[-1])


_ON_GPU = 1 << 18  # vectors at once on a GPU: 1.5 GiB in float64 at 768 channels


def _lengths(vectors: Tensor, device: torch.device, *, together: bool) -> Float[Tensor, ""]:
    """The sum of all |x|^2, float64."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    for part in vectors.split(1 << 14):
        total += torch.linalg.vector_norm(part.to(device), dtype=torch.float64).square()
    if together:
        add_up(total)
    return total


def _fetch(vectors: Tensor, places: Tensor, wanted: Int[Tensor, " k"]) -> Float[Tensor, "k d"]:
    """Of all processes' vectors in the order of their places those of the `wanted` numbers."""
    places = places.cpu()
    parts = gather_rows(places)
    asked = (parts[0] if len(parts) == 1 else torch.cat(parts).sort().values)[wanted]
    found = vectors.new_zeros(len(wanted), vectors.shape[1])
    if len(places):
        rows = torch.searchsorted(places, asked).clamp(max=len(places) - 1)
        here = torch.nonzero(places[rows] == asked).flatten()
        found[here.to(vectors.device)] = vectors[rows[here].to(vectors.device)]
    add_up(found)
    return found


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


@checked
@torch.no_grad()
def assign(
    features: Float[Tensor, "... d"],
    centroids: Float[Tensor, "k d"],
    *,
    squares: Float[Tensor, " k"] | None = None,
    half: bool = False,
) -> Int[Tensor, "..."]:
    """The nearest centroid of each feature by squared Euclidean distance; the lowest index on ties.

    Exact float32 also inside autocast and where TF32 is allowed. `squares` takes the place of |c|^2. `half`
    computes |x|^2 - 2 x.c + |c|^2 in float16, as the published training does: near neighbours then swap,
    since float16 resolves these sums to 1 or 2.
    """
    if features.shape[-1] != centroids.shape[1]:
        raise DigitError(f"features have {features.shape[-1]} channels, the centroids {centroids.shape[1]}")
    flat = features.flatten(0, -2) if features.ndim > 1 else features[None]
    centroids = centroids.float()
    squares = centroids.square().sum(1) if squares is None else squares.float()
    codes = (_nearest_half if half else nearest)(flat, centroids, squares)
    return codes.view(features.shape[:-1])


def _nearest_half(vectors: Tensor, centroids: Tensor, squares: Tensor) -> Tensor:
    """`nearest` by distances in float16."""
    centroids, squares = centroids.half(), squares.half()
    found = []
    with exact_products(vectors.device):
        for part in vectors.half().split(rows_at_once(len(centroids), vectors.device)):
            distances = part.square().sum(1, keepdim=True) - 2 * (part @ centroids.T) + squares
            found.append(distances.argmin(dim=1))
    return torch.cat(found)

"""pictures -> statistics of their features: one pass of several networks, in sums that merge."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.distributed import gather, gather_rows, largest, world_size
from digit.errors import DigitError
from digit.evaluation.networks import Network, Outputs
from digit.evaluation.pictures import Pictures, shared
from digit.evaluation.scores import Gaussian, Moments
from digit.nn.checks import check_device

Precision = Literal["fp32", "tf32", "bf16"]


class Measured(NamedTuple):
    """What one network says of a whole set; pure statistics, on the network's device."""

    moments: Moments | Gaussian
    features: Float[Tensor, "n d"] | None
    probabilities: Float[Tensor, "n c"] | None
    spatial: Moments | Gaussian | None = None


def measure(
    pictures: Pictures,
    networks: Sequence[Network],
    *,
    device: str | torch.device = "cpu",
    keep: bool = False,
    spatial: bool = False,
    precision: Precision = "tf32",
    together: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> list[Measured]:
    """One pass of every network, each on `device`.

    `keep` stores the features, for precision, recall and the kernel distance; `spatial` sums up the spatial
    features too, of networks that have them. `together`: each process measures its batches of the pictures,
    and all of them get sums over all, and features and probabilities in the order of the pictures.
    """
    if together:
        pictures = shared(pictures)
    device = check_device(device)
    running = [_Running(pictures.n, device, keep=keep, spatial=spatial) for _ in networks]
    sizes: list[int] = []  # of the batches
    for batch in pictures.batches:
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != 3:
            raise DigitError(
                f"{pictures.name} has pixels {batch.dtype} {tuple(batch.shape)}: give uint8 b 3 h w"
            )
        batch = batch.to(device, non_blocking=True)
        for network, part in zip(networks, running, strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs = network.outputs(batch, tf32=precision == "tf32")
            part.add(outputs)
        sizes.append(len(batch))
        if progress is not None:
            progress(sum(sizes), pictures.n)
    if together and world_size() > 1:
        order = _order(gather(sizes))
        for part in running:
            part.over_processes(order)
    if not running or any(part.pooled is None for part in running):
        raise DigitError(f"{pictures.name} holds no pictures, or no network was given: give both")
    return [
        Measured(part.pooled, part.features.rows, part.probabilities.rows, part.places)
        for part in running
        if part.pooled is not None
    ]


class _Running:
    """What one network has said so far; nothing of what has not come yet."""

    def __init__(self, expected: int | None, device: torch.device, *, keep: bool, spatial: bool) -> None:
        self.pooled: Moments | None = None
        self.places: Moments | None = None  # of spatial features
        self.features, self.probabilities = _Rows(expected), _Rows(expected)
        self._device, self._keep, self._spatial = device, keep, spatial

    def add(self, outputs: Outputs) -> None:
        """Count a batch."""
        features, probabilities, places = outputs
        self.pooled = self.pooled or Moments(features.shape[1], device=self._device)
        self.pooled.update(features)
        if self._spatial and places is not None:
            self.places = self.places or Moments(places.shape[1], device=self._device)
            self.places.update(places)
        if self._keep:
            self.features.add(features)
        if probabilities is not None:
            self.probabilities.add(probabilities)

    def over_processes(self, order: Int[Tensor, " n"]) -> None:
        """Take in what the other processes counted; one that saw no batch learns the widths from them."""
        self.pooled, self.places = (self._sum(part) for part in (self.pooled, self.places))
        self.features, self.probabilities = (
            self._rows(part, order) for part in (self.features, self.probabilities)
        )

    def _sum(self, part: Moments | None) -> Moments | None:
        width = largest(0 if part is None else part.width)
        return (part or Moments(width, device=self._device)).over_processes() if width else None

    def _rows(self, part: "_Rows", order: Tensor) -> "_Rows":
        rows, whole = part.rows, _Rows(len(order))
        width = largest(0 if rows is None else rows.shape[1])
        if width:
            own = torch.zeros(0, width, device=self._device) if rows is None else rows
            whole.add(torch.cat(gather_rows(own))[order.to(self._device)])
        return whole


def _order(sizes: list[list[int]]) -> Int[Tensor, " n"]:
    """Places of the pictures where the processes' rows stand one after another.

    `sizes` are those of each process's batches; of w processes the r-th has batches r, r + w, ...
    """
    batch_of_row = [
        first + len(sizes) * i
        for first, own in enumerate(sizes)
        for i, size in enumerate(own)
        for _ in range(size)
    ]
    return torch.tensor(batch_of_row, dtype=torch.int64).argsort(stable=True)


class _Rows:
    """Rows gathered in one block, without the copy of a final `cat`.

    A tensor kept for each batch would also pin the heap: the large ones freed around it never go back.
    """

    def __init__(self, expected: int | None) -> None:
        self._block: Tensor | None = None
        self._count, self._expected = 0, expected or 0

    def add(self, part: Tensor) -> None:
        """Append the rows of `part`."""
        stop = self._count + len(part)
        if self._block is None or stop > len(self._block):
            larger = part.new_empty(max(self._expected, 2 * self._count, stop), part.shape[1])
            if self._block is not None:
                larger[: self._count] = self._block[: self._count]
            self._block = larger
        self._block[self._count : stop] = part
        self._count = stop

    @property
    def rows(self) -> Tensor | None:
        """All rows so far; None before the first."""
        return None if self._block is None else self._block[: self._count]

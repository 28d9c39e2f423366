"""pictures -> statistics of their features: one pass of several networks, in sums that merge."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from digit.errors import DigitError
from digit.evaluation.frechet import Gaussian, Moments
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures

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
    progress: Callable[[int, int | None], None] | None = None,
) -> list[Measured]:
    """One pass of every network, each on `device`.

    `keep` stores the features, for precision, recall and the kernel distance; `spatial` sums up the spatial
    features too, of networks that have them.
    """
    device = torch.device(device)
    kept = [(_Rows(pictures.n), _Rows(pictures.n)) for _ in networks]
    moments: list[tuple[Moments, Moments | None] | None] = [None for _ in networks]
    done = 0
    for batch in pictures.batches:
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != 3:
            raise DigitError(
                f"{pictures.name} has pixels {batch.dtype} {tuple(batch.shape)}: give uint8 b 3 h w"
            )
        batch = batch.to(device, non_blocking=True)
        for i, network in enumerate(networks):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                features, probabilities, places = network.outputs(batch, tf32=precision == "tf32")
            if moments[i] is None:
                of_places = (
                    Moments(places.shape[1], device=device) if spatial and places is not None else None
                )
                moments[i] = Moments(features.shape[1], device=device), of_places
            running, of_places = moments[i] or (None, None)
            assert running is not None
            running.update(features)
            if of_places is not None and places is not None:
                of_places.update(places)
            if keep:
                kept[i][0].add(features)
            if probabilities is not None:
                kept[i][1].add(probabilities)
        done += len(batch)
        if progress is not None:
            progress(done, pictures.n)
    found = [running for running in moments if running is not None]
    if len(found) != len(networks) or not found:
        raise DigitError(f"{pictures.name} holds no pictures, or no network was given: give both")
    return [
        Measured(running, features.rows, guesses.rows, of_places)
        for (running, of_places), (features, guesses) in zip(found, kept, strict=True)
    ]


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

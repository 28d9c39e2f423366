"""pictures, reference -> named values: every measurement of generated pictures, in one pass over each set."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.errors import DigitError
from digit.evaluation.class_accuracy import class_accuracy
from digit.evaluation.frechet import Moments, frechet_distance
from digit.evaluation.inception_score import inception_score
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures, Source, open_pictures
from digit.evaluation.precision_recall import precision_recall

Metric = Literal["fd", "is", "precision_recall", "class_accuracy"]
ALL: tuple[Metric, ...] = ("fd", "is", "precision_recall", "class_accuracy")
FEWEST = 2048  # pictures; fewer than Inception has features give a singular covariance
PROTOCOL = (
    "all pictures of both sets; files are resized to the samples' size by their short side (bicubic,"
    " antialiased) and centre-cropped; precision and recall with k = 3 on equal numbers of evenly spaced"
    " pictures; inception score in 10 splits, shuffled by numpy's seed 2020"
)


class Measured(NamedTuple):
    """What one network says of a whole set; pure statistics, on the network's device."""

    moments: Moments
    features: Float[Tensor, "n d"] | None
    probabilities: Float[Tensor, "n c"] | None


def evaluate_images(
    samples: Source,
    reference: Source | Sequence[Measured],
    networks: Sequence[Network],
    *,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    labels: Int[Tensor, " n"] | Int[np.ndarray, " n"] | None = None,
    metrics: Sequence[Metric] = ALL,
    size: int | None = None,
    few: bool = False,
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield (name, value): the sizes of both sets, then each network's metrics; `report` makes JSON of them.

    Samples and reference: a folder, zip or tar shards, an .npz as of ADM (`arr_0` bytes n h w 3), a uint8
    tensor n 3 h w, or an iterable of such tensors; the reference may also be what `measure` returned before.
    The reference's files are rendered at the samples' size, or both at `size` px. `labels` are what the
    samples were made for, as numbers of the network's classes; without them class folders count where the
    network knows their names, else there is no accuracy. Metrics: "fd" Fréchet distance, "is" inception
    score, "precision_recall", "class_accuracy". Raises DigitError if a set has under 2,048 pictures, unless
    `few`, or a picture cannot be read. `progress(done, total)` counts both sets.
    """
    drawn = open_pictures(samples, size=size, batch_size=batch_size)
    if drawn.n is not None:
        _check_number(drawn.name, drawn.n, few)
    run = partial(
        measure,
        networks=networks,
        device=device,
        keep="precision_recall" in metrics,
        precision=precision,
        progress=progress,
    )
    if isinstance(reference, list | tuple) and reference and isinstance(reference[0], Measured):
        of_reference = [part for part in reference if isinstance(part, Measured)]
    else:
        given = open_pictures(cast(Source, reference), size=size or drawn.size, batch_size=batch_size)
        if given.n is not None:
            _check_number(given.name, given.n, few)
        if given.size is not None and drawn.size not in (None, given.size):
            raise DigitError(
                f"{drawn.name} is {drawn.size} px, {given.name} {given.size} px: resize one of them"
            )
        of_reference = run(given)
    if len(of_reference) != len(networks):
        raise DigitError(
            f"the reference was measured by {len(of_reference)} networks: give the same {len(networks)}"
        )
    of_samples = run(drawn)
    for name, measured in ((drawn.name, of_samples), ("the reference", of_reference)):
        _check_number(name, measured[0].moments.n, few)
    yield "n_samples", float(of_samples[0].moments.n)
    yield "n_reference", float(of_reference[0].moments.n)
    for network, sample, real in zip(networks, of_samples, of_reference, strict=True):
        truth = _labels(drawn, labels, network)
        yield from compare(network, sample, real, labels=truth, metrics=metrics)


def compare(
    network: Network,
    samples: Measured,
    reference: Measured,
    *,
    labels: Int[Tensor, " n"] | None = None,
    metrics: Sequence[Metric] = ALL,
) -> Iterator[tuple[str, float]]:
    """Yield one network's metrics; precision, recall and accuracy are shares in [0, 1]."""
    if "fd" in metrics:
        yield network.metric("FD"), frechet_distance(samples.moments, reference.moments)
    if "is" in metrics and samples.probabilities is not None:
        mean, deviation = inception_score(samples.probabilities, splits=min(10, len(samples.probabilities)))
        yield network.metric("IS"), mean
        yield network.metric("IS deviation"), deviation
    if "precision_recall" in metrics and samples.features is not None and reference.features is not None:
        number = min(len(samples.features), len(reference.features))
        share = precision_recall(_spaced(reference.features, number), _spaced(samples.features, number))
        yield network.metric("precision"), share.precision
        yield network.metric("recall"), share.recall
    if "class_accuracy" in metrics and labels is not None and samples.probabilities is not None:
        if len(labels) != len(samples.probabilities):
            raise DigitError(
                f"there are {len(labels)} labels for {len(samples.probabilities)} samples: give one each"
            )
        yield network.metric("class accuracy"), class_accuracy(samples.probabilities, labels)


def report(
    values: Iterable[tuple[str, float]], networks: Sequence[Network], *, protocol: str = PROTOCOL
) -> dict[str, Any]:
    """What `evaluate_images` yields, as the JSON written beside every published number."""
    named = dict(values)
    return {
        "protocol": protocol,
        "n_samples": int(named.pop("n_samples")),
        "n_reference": int(named.pop("n_reference")),
        "features": [{"name": network.name, "sha256": network.sha256} for network in networks],
        "values": named,
    }


def measure(
    pictures: Pictures,
    networks: Sequence[Network],
    *,
    device: str | torch.device = "cpu",
    keep: bool = True,
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: Callable[[int, int | None], None] | None = None,
) -> list[Measured]:
    """One pass of every network, each on `device`; `keep` stores the features for precision and recall."""
    device = torch.device(device)
    kept = [(_Rows(pictures.n), _Rows(pictures.n)) for _ in networks]
    moments: list[Moments | None] = [None for _ in networks]
    done = 0
    for batch in pictures.batches:
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != 3:
            raise DigitError(
                f"{pictures.name} has pixels {batch.dtype} {tuple(batch.shape)}: give uint8 b 3 h w"
            )
        batch = batch.to(device, non_blocking=True)
        for i, network in enumerate(networks):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                features, probabilities = network.outputs(batch)
            running = moments[i] = moments[i] or Moments(features.shape[1], device=device)
            running.update(features)
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
        Measured(running, features.rows, guesses.rows)
        for running, (features, guesses) in zip(found, kept, strict=True)
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


def _check_number(name: str, n: int, few: bool) -> None:
    if n < FEWEST and not few:
        raise DigitError(f"{name} has {n} pictures, too few for a distance: give {FEWEST}, or pass --few")


def _labels(pictures: Pictures, given: Tensor | np.ndarray | None, network: Network) -> Tensor | None:
    """The label of each sample as a number of the network's classes; None where nothing says it."""
    if given is not None:
        return torch.as_tensor(given)
    if pictures.labels is None or not pictures.classes or not set(pictures.classes) <= set(network.classes):
        # Numbers without names, such as those of an .npz, count as the network's own.
        return None if pictures.classes else pictures.labels
    numbers = torch.tensor([network.classes.index(name) for name in pictures.classes])
    return numbers[pictures.labels]


def _spaced(features: Tensor, number: int) -> Tensor:
    # Evenly spaced, not the first ones: sets on disk are often sorted by class.
    return features[torch.arange(number, device=features.device) * len(features) // number]

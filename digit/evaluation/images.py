"""pictures, reference -> named values: every measurement of generated pictures, in one pass over each set."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from digit.bounds import Batch
from digit.calls import checked
from digit.data.classes import relabel
from digit.distributed import is_main
from digit.errors import DigitError
from digit.evaluation.measure import Measured, Precision, measure
from digit.evaluation.networks import INCEPTION, Network
from digit.evaluation.pictures import Pictures, Source, open_pictures, without_statistics
from digit.evaluation.protocols import OWN, Metric, Protocol, check_number
from digit.evaluation.result import result
from digit.evaluation.scores import (
    Moments,
    class_accuracy,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from digit.progress import say


# Long by its signature and docstring.
@checked
def picture_metrics(
    samples: Source,
    reference: Source | Sequence[Measured],
    networks: Sequence[Network],
    *,
    protocol: Protocol = OWN,
    batch_size: Batch = 256,
    device: str | torch.device = "cpu",
    labels: Int[Tensor, " n"] | Int[np.ndarray, " n"] | None = None,
    metrics: Sequence[Metric] | None = None,
    size: int | None = None,
    few: bool = False,
    precision: Precision = "tf32",
    progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield (name, value): the sizes of both sets, then each network's metrics; `report` makes JSON of them.

    Samples and reference: a folder, zip or tar shards, an .npz as of ADM (`arr_0` bytes n h w 3), a uint8
    tensor n 3 h w, or an iterable of such tensors. The reference may also be an .npz of statistics, or what
    `measure` returned before. Its files are rendered at the samples' size, or both at `size` px. `labels` are
    what the samples were made for, as numbers of the network's classes; without them class folders count
    where the network knows their names, else there is no accuracy.

    Metrics, the protocol's if left out: "fd" Fréchet distance, "sfd" the same on InceptionV3's spatial
    features, "is" inception score, "kd" kernel distance, "precision_recall", "class_accuracy"; "kd" and
    "precision_recall" keep all features in memory. Raises DigitError if a set has under 2,048 pictures or not
    as many as the protocol says, unless `few`, or a picture cannot be read. `progress(done, total)` counts
    both sets.
    """
    metrics = protocol.metrics if metrics is None else metrics
    if protocol.inception_only and any(network.name != INCEPTION for network in networks):
        raise DigitError(
            f"the protocol {protocol.name} is of FID's InceptionV3 with its published weights: give"
            " --features inception, or another protocol"
        )
    drawn = open_pictures(samples, size=None if protocol.size else size, batch_size=batch_size)
    if protocol.statistics and drawn.pooled is not None:
        raise DigitError(
            f"{drawn.name} holds statistics beside its pictures, as references do: give a file of samples"
        )
    drawn = without_statistics(drawn)
    if protocol.size not in (None, drawn.size) and drawn.size is not None:
        raise DigitError(
            f"{drawn.name} is {drawn.size} px, the protocol {protocol.name} takes {protocol.size} px samples"
        )
    if drawn.n is not None:
        check_number(drawn.name, drawn.n, protocol, few=few)
    how: dict[str, Any] = {"device": device, "precision": precision, "progress": progress}
    run = partial(measure, networks=networks, together=True, **how)
    keep, spatial = bool({"precision_recall", "kd"} & set(metrics)), "sfd" in metrics
    if isinstance(reference, list | tuple) and reference and isinstance(reference[0], Measured):
        of_reference = [part for part in reference if isinstance(part, Measured)]
    else:
        side = protocol.size or size or drawn.size
        given = open_pictures(
            cast(Source, reference), size=side, batch_size=batch_size, bilinear=protocol.bilinear
        )
        if given.pooled is not None and (protocol.statistics or given.n == 0):
            of_reference = _of_statistics(given, networks, run, keep)
        else:
            given = without_statistics(given)
            if given.n is not None:
                check_number(given.name, given.n, protocol, few=few, reference=True)
            if given.size is not None and drawn.size not in (None, given.size):
                raise DigitError(
                    f"{drawn.name} is {drawn.size} px, {given.name} {given.size} px: resize one of them"
                )
            of_reference = run(given, keep=keep, spatial=spatial)
    if len(of_reference) != len(networks):
        raise DigitError(
            f"the reference was measured by {len(of_reference)} networks: give the same {len(networks)}"
        )
    of_samples = run(drawn, keep=keep, spatial=spatial)
    check_number(drawn.name, _count(of_samples[0]), protocol, few=few)
    if isinstance(of_reference[0].moments, Moments):
        check_number("the reference", _count(of_reference[0]), protocol, few=few, reference=True)
    if not is_main():
        return
    yield "n_samples", float(_count(of_samples[0]))
    yield "n_reference", float(_count(of_reference[0]))
    for network, sample, real in zip(networks, of_samples, of_reference, strict=True):
        truth = _labels(drawn, labels, network)
        yield from compare(network, sample, real, labels=truth, metrics=metrics, protocol=protocol)


def compare(
    network: Network,
    samples: Measured,
    reference: Measured,
    *,
    labels: Int[Tensor, " n"] | None = None,
    metrics: Sequence[Metric] | None = None,
    protocol: Protocol = OWN,
) -> Iterator[tuple[str, float]]:
    """Yield one network's metrics; precision, recall and accuracy are shares in [0, 1]."""
    metrics = protocol.metrics if metrics is None else metrics
    if "fd" in metrics:
        yield network.metric("FD"), frechet_distance(samples.moments, reference.moments)
    if "sfd" in metrics and samples.spatial is not None and reference.spatial is not None:
        yield network.metric("sFD"), frechet_distance(samples.spatial, reference.spatial)
    if "is" in metrics and samples.probabilities is not None:
        mean, deviation = inception_score(
            samples.probabilities,
            splits=min(10, len(samples.probabilities)),
            split_size=protocol.split_size,
            seed=protocol.shuffle,
        )
        yield network.metric("IS"), mean
        yield network.metric("IS deviation"), deviation
    if samples.features is not None and reference.features is not None:
        yield from _of_features(network, samples.features, reference.features, metrics, protocol)
    if "class_accuracy" in metrics and labels is not None and samples.probabilities is not None:
        if len(labels) != len(samples.probabilities):
            raise DigitError(
                f"there are {len(labels)} labels for {len(samples.probabilities)} samples: give one each"
            )
        yield network.metric("class accuracy"), class_accuracy(samples.probabilities, labels)


def report(
    values: Iterable[tuple[str, float]],
    networks: Sequence[Network],
    *,
    protocol: Protocol = OWN,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """What `picture_metrics` yields, as the one form of results."""
    named = dict(values)
    counts = {"samples": int(named.pop("n_samples")), "reference": int(named.pop("n_reference"))}
    return result(
        "images",
        named.items(),
        protocol=f"{protocol.name}: {protocol.sentence}",
        counts=counts,
        features=[{"name": network.name, "sha256": network.sha256} for network in networks],
        settings=settings,
        device=device,
    )


def _of_features(
    network: Network, samples: Tensor, reference: Tensor, metrics: Sequence[Metric], protocol: Protocol
) -> Iterator[tuple[str, float]]:
    number = min(len(samples), len(reference))
    if "kd" in metrics:
        mean, deviation = kernel_distance(samples, reference, size=min(1000, number))
        yield network.metric("KD"), mean
        yield network.metric("KD deviation"), deviation
    if "precision_recall" in metrics:
        if protocol.equal_numbers:
            samples, reference = _spaced(samples, number), _spaced(reference, number)
        share = precision_recall(reference, samples)
        yield network.metric("precision"), share.precision
        yield network.metric("recall"), share.recall


def _of_statistics(
    given: Pictures, networks: Sequence[Network], run: Callable[..., list[Measured]], keep: bool
) -> list[Measured]:
    """A reference whose moments come with its file; its pictures serve for precision and recall only."""
    if any(network.name != INCEPTION for network in networks):
        raise DigitError(
            f"{given.name} holds statistics of FID's InceptionV3 with its published weights: give"
            " --features inception, or a reference of pictures"
        )
    assert given.pooled is not None
    parts = (
        run(given, keep=True) if keep and given.n else [Measured(given.pooled, None, None)] * len(networks)
    )
    return [part._replace(moments=given.pooled, spatial=given.spatial) for part in parts]


def _count(measured: Measured) -> int:
    """Pictures that were read: none where there were only statistics."""
    if isinstance(measured.moments, Moments):
        return measured.moments.n
    return 0 if measured.features is None else len(measured.features)


def _labels(pictures: Pictures, given: Tensor | np.ndarray | None, network: Network) -> Tensor | None:
    """The label of each sample as a number of the network's classes; None where nothing says it."""
    if given is not None:
        return torch.as_tensor(given)
    if network.name.split("-")[0] == INCEPTION:
        return None  # its 1,008 outputs are in an order of their own
    if pictures.labels is None or not pictures.classes:
        return pictures.labels  # numbers without names, such as those of an .npz, are the network's own
    try:
        named = pictures.labels.numpy(), pictures.classes, network.classes
        return torch.from_numpy(relabel(*named, of=pictures.name, known_to=network.name))
    except DigitError as error:
        if network.classes:
            say(f"no class accuracy: {error}")
        return None


def _spaced(features: Tensor, number: int) -> Tensor:
    # Evenly spaced, not the first ones: sets on disk are often sorted by class.
    return features[torch.arange(number, device=features.device) * len(features) // number]

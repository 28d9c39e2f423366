"""points, labels -> directions: PCA keeps variance, LDA what separates classes (DiGIT, figure 5)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.calls import checked
from digit.errors import DigitError
from digit.evaluation.stability import Perturbation, perturb

PROTOCOL = (
    "PCA and LDA fitted on every other picture of each class at each noise, measured on the rest: variance"
    " between classes over that within, and the share whose nearest class mean is right; features are pooled"
    " over a picture's positions; the toy's two classes lie 2 apart beside noise of the deviation named"
)
NUISANCES = (0.5, 1.0, 2.0, 4.0, 8.0)  # standard deviation of the toy's nuisance; the classes are 2 apart


class Views(NamedTuple):
    """The same points along the directions of both methods."""

    pca: Float[Tensor, "n r"]
    lda: Float[Tensor, "n r"]


@checked
def pca(points: Float[Tensor, "n d"], count: int) -> Float[Tensor, "d r"]:
    """The `count` orthonormal directions of largest variance, float64, largest first."""
    points = points.double()
    return torch.linalg.svd(points - points.mean(0), full_matrices=False)[2][:count].T


@checked
def lda(
    points: Float[Tensor, "n d"], labels: Int[Tensor, " n"], count: int, *, shrinkage: float = 0.0
) -> Float[Tensor, "d r"]:
    """The `count` directions of largest variance between classes over that within, float64, largest first.

    They have unit length and are in general not orthogonal. `shrinkage` in [0, 1] mixes the covariance within
    classes with a multiple of the identity of the same trace: with more channels than points per class it is
    needed, or directions are found that separate only these very points.

    Raises:
        DigitError: fewer than two classes, more directions than classes less one, or a covariance within
            classes that has no inverse.
    """
    points, classes = points.double(), labels.unique()
    if not 0 < count < len(classes):
        raise DigitError(
            f"{len(classes)} classes have {max(0, len(classes) - 1)} discriminant directions, {count} were "
            "asked for: give pictures of more classes"
        )
    within, between = scatter(points, labels)
    width = len(within)
    level = within.trace() / width * torch.eye(width, dtype=within.dtype, device=within.device)
    within = (1 - shrinkage) * within + shrinkage * level
    factor, failed = torch.linalg.cholesky_ex(within)
    # The smallest pivot beside the largest: below, rounding decides the directions.
    if int(failed) or float(factor.diagonal().min() / factor.diagonal().max()) < 1e-7:
        raise DigitError(
            f"{len(points)} points of {width} channels leave the variance within classes singular: "
            "give more pictures, or a shrinkage above 0"
        )
    # B v = l W v with W = L L' is the symmetric problem of L^-1 B L^-T.
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    whitened = torch.linalg.solve_triangular(factor, half.T, upper=False)
    vectors = torch.linalg.eigh((whitened + whitened.T) / 2).eigenvectors.flip(1)[:, :count]
    directions = torch.linalg.solve_triangular(factor.T, vectors, upper=True)
    return directions / directions.norm(dim=0)


def scatter(
    points: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Covariances within and between classes, each class by its share of points; their sum is the whole's."""
    points = points.double()
    mean = points.mean(0)
    within = between = points.new_zeros(points.shape[1], points.shape[1])
    for label in labels.unique():
        part = points[labels == label]
        centre = part.mean(0)
        within = within + (part - centre).T @ (part - centre) / len(points)
        between = between + len(part) / len(points) * torch.outer(centre - mean, centre - mean)
    return within, between


def fisher_ratio(points: Float[Tensor, "n r"], labels: Int[Tensor, " n"]) -> float:
    """Variance between classes over variance within, both summed over the directions; 0 and up."""
    within, between = scatter(points, labels)
    return float(between.trace() / within.trace().clamp(min=1e-300))


def centroid_accuracy(
    points: Float[Tensor, "n r"],
    labels: Int[Tensor, " n"],
    unseen: Float[Tensor, "m r"],
    truth: Int[Tensor, " m"],
) -> float:
    """Share of unseen points whose nearest class mean (of `points`) is that of their own class."""
    classes = labels.unique()
    centres = torch.stack([points[labels == label].double().mean(0) for label in classes])
    return float((classes[torch.cdist(unseen.double(), centres).argmin(1)] == truth).double().mean())


def angle(first: Float[Tensor, " d"], second: Float[Tensor, " d"]) -> float:
    """Degrees between two directions, 0 to 90: their signs mean nothing."""
    cosine = (first @ second).abs() / (first.norm() * second.norm())
    return math.degrees(math.acos(min(1.0, float(cosine))))


def toy(
    nuisance: float, *, count: int = 400, seed: int = 0
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
    """Two classes of `count` points in the plane, float64, with their labels.

    Along the first axis their means are at -1 and 1 and both have a standard deviation of 0.3; along the
    second there is only noise, of the standard deviation `nuisance`, which says nothing about the class. The
    draws are the same for every `nuisance`. The paper's figure has no numbers: these are ours.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(2 * count, 2, generator=generator, dtype=torch.float64)
    labels = torch.arange(2 * count) % 2
    signal = 2.0 * labels - 1 + 0.3 * draws[:, 0]
    return torch.stack((signal, nuisance * draws[:, 1]), 1), labels


@checked
def toy_values(nuisances: Sequence[float] = NUISANCES, *, seed: int = 0) -> Iterator[tuple[str, float]]:
    """Yield (name, value) by nuisance, for PCA and LDA fitted on one draw of the toy and measured on another.

    "angle" of the direction to the axis along which the classes differ, in degrees, "Fisher ratio" and
    "accuracy" of the nearest class mean.
    """
    axis = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for nuisance in nuisances:
        (points, labels), (fresh, truth) = (toy(nuisance, seed=draw) for draw in (seed, seed + 1))
        for name, found in (("PCA", pca(points, 1)), ("LDA", lda(points, labels, 1))):
            line, unseen = points @ found, fresh @ found
            yield f"{name} angle, nuisance {nuisance:g}", angle(found[:, 0], axis)
            yield f"{name} Fisher ratio, nuisance {nuisance:g}", fisher_ratio(unseen, truth)
            yield f"{name} accuracy, nuisance {nuisance:g}", centroid_accuracy(line, labels, unseen, truth)


def separability(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    directions: int = 2,
    shrinkage: float = 0.1,
) -> tuple[list[tuple[str, float]], Views, Int[Tensor, " m"]]:
    """PCA and LDA fitted on one half of the points, and what the other half shows along them.

    The halves are every other point of each class, in order. Two classes have one direction.

    Returns:
        (name, value) of each method: "PCA Fisher ratio" and "PCA accuracy" (nearest class mean), and so for
        LDA; the unseen half along the directions; and its labels.

    Raises:
        DigitError: a class of fewer than two points, or as `lda`.
    """
    chosen = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    for label in labels.unique():
        members = torch.nonzero(labels == label)[:, 0]
        if len(members) < 2:
            raise DigitError(f"class {int(label)} has one picture: give two or more of each class")
        chosen[members[::2]] = True
    seen, known = features[chosen].double(), labels[chosen]
    unseen, truth = features[~chosen].double(), labels[~chosen]
    count = min(directions, len(labels.unique()) - 1)
    values, views = [], []
    found = {"PCA": pca(seen, max(count, 1)), "LDA": lda(seen, known, max(count, 1), shrinkage=shrinkage)}
    for name, basis in found.items():
        view = (unseen - seen.mean(0)) @ basis
        accuracy = centroid_accuracy((seen - seen.mean(0)) @ basis, known, view, truth)
        values += [(f"{name} Fisher ratio", fisher_ratio(view, truth)), (f"{name} accuracy", accuracy)]
        views.append(view)
    return values, Views(*views), truth


@torch.no_grad()
def pooled_under_noise(
    read: Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b n d"]],
    batches: Iterable[Float[Tensor, "b 3 h w"]],
    snrs: Sequence[float | None],
    *,
    seed: int = 0,
) -> dict[str, Float[Tensor, "m d"]]:
    """What `read` says of pictures in [0, 1], averaged over positions, by noise: "no noise", "20 dB"; CPU.

    A picture's place in the batches, not its batch, fixes its noise.
    """
    noises = {"no noise" if snr is None else f"{snr:g} dB": snr for snr in snrs}
    parts: dict[str, list[Tensor]] = {name: [] for name in noises}
    seen = 0
    for clean in batches:
        numbers = range(seen, seen + len(clean))
        for name, snr in noises.items():
            disturbed = clean
            if snr is not None:
                disturbed = perturb(clean, Perturbation("noise", snr), numbers, seed=seed)
            parts[name].append(read(disturbed).float().mean(1).cpu())
        seen += len(clean)
    return {name: torch.cat(part) for name, part in parts.items()}


def separability_by_noise(
    pooled: Mapping[str, Float[Tensor, "n d"]], labels: Int[Tensor, " n"], *, shrinkage: float = 0.1
) -> tuple[dict[str, float], dict[str, Views], Int[Tensor, " m"]]:
    """`separability` at each noise: values by name, "PCA accuracy, 20 dB", views by noise, unseen labels."""
    values: dict[str, float] = {}
    views: dict[str, Views] = {}
    truth = labels
    for noise, points in pooled.items():
        rows, views[noise], truth = separability(points, labels, shrinkage=shrinkage)
        values |= {f"{name}, {noise}": number for name, number in rows}
    return values, views, truth

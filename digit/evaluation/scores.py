"""features or class probabilities -> scores of a set of pictures.

Fréchet distance (FID on InceptionV3, arXiv:1706.08500), kernel distance (KID, arXiv:1801.01401), precision
and recall (arXiv:1904.06991), inception score (arXiv:1606.03498) and class accuracy.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from digit.bounds import Count, Whole
from digit.calls import checked
from digit.distributed import add_up
from digit.errors import DigitError
from digit.nn.frechet import frechet


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A mean and a covariance alone, in float64, as files of published statistics hold them."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]

    @property
    def width(self) -> int:
        """Features per picture."""
        return len(self.mean)


class Moments:
    """Running count, sum and sum of outer products of features, in float64 on one device.

    Everything adds: moments of parts merge into those of the whole (to 1e-9), so a set can be streamed or
    sharded.
    """

    def __init__(self, width: int, *, device: str | torch.device = "cpu") -> None:
        self.n = 0
        self.sum = torch.zeros(width, dtype=torch.float64, device=device)
        self.outer = torch.zeros(width, width, dtype=torch.float64, device=device)

    @property
    def width(self) -> int:
        """Features per picture."""
        return len(self.sum)

    def update(self, features: Float[Tensor, "b d"]) -> None:
        """Count the features of b more pictures, of any float type, from any device."""
        features = features.to(self.sum.device, torch.float64)
        self.n += len(features)
        self.sum += features.sum(0)
        self.outer.addmm_(features.T, features)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together, on this one's device; neither is changed."""
        _check_widths(self.width, other.width)
        both = Moments(self.width, device=self.sum.device)
        both.n = self.n + other.n
        both.sum = self.sum + other.sum.to(self.sum.device)
        both.outer = self.outer + other.outer.to(self.sum.device)
        return both

    def over_processes(self) -> "Moments":
        """The moments of all processes' sets together; of this one's alone where no processes are joined."""
        both = self.merge(Moments(self.width))
        count = torch.tensor(self.n, device=self.sum.device)
        add_up(count, both.sum, both.outer)
        both.n = int(count)
        return both

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """The mean, float64. Raises DigitError if there are no features or some are not finite."""
        if self.n == 0:
            raise DigitError("the features of no pictures have no mean: give pictures to measure")
        mean = self.sum / self.n
        if not mean.isfinite().all():
            raise DigitError("some features are NaN or infinite: look for broken pictures or weights")
        return mean

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The unbiased covariance, float64, of at least two pictures (else DigitError)."""
        mean = self.mean
        if self.n < 2:
            raise DigitError("one picture has no covariance: give at least two, better 50,000")
        return (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1)


@checked
def frechet_distance(a: Moments | Gaussian, b: Moments | Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 sqrt(A B)) of two Gaussians (Dowson and Landau 1982), at least 0.

    Exact for singular covariances too. On the device of `a`. Raises DigitError on different widths or fewer
    than two pictures.
    """
    _check_widths(a.width, b.width)
    mean_a, cov_a = a.mean, a.covariance
    mean_b, cov_b = b.mean.to(mean_a.device), b.covariance.to(mean_a.device)
    return max(float(frechet(mean_a, cov_a, mean_b, cov_b)), 0.0)


def _check_widths(here: int, there: int) -> None:
    if here != there:
        raise DigitError(
            f"features of widths {here} and {there} cannot be compared: use one network for both"
        )


@checked
def kernel_distance(
    samples: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    *,
    subsets: Count = 100,
    size: Count = 1000,
    seed: Whole = 2020,
) -> tuple[float, float]:
    """Mean and standard deviation, over random subsets, of the squared MMD with the kernel (x y / d + 1)^3.

    Of each set `size` pictures are drawn without repetition, by numpy's RandomState(seed); all defaults and
    the order of the draws are torch-fidelity's. In float64 on the features' device. The mean may be slightly
    below 0 for sets of one distribution. Raises DigitError if a set has fewer than `size` or NaN.
    """
    _check_widths(samples.shape[1], reference.shape[1])
    smaller = min(len(samples), len(reference))
    if smaller < size or size < 2:
        raise DigitError(
            f"{smaller} pictures are too few for subsets of {size}: give at least {max(size, 2)}"
        )
    if not (samples.isfinite().all() and reference.isfinite().all()):
        raise DigitError("some features are NaN or infinite: look for broken pictures or weights")
    draw = np.random.RandomState(seed)  # numpy promises that its stream never changes
    values = []
    for _ in range(subsets):
        x = samples[_chosen(draw, len(samples), size).to(samples.device)].double()
        y = reference[_chosen(draw, len(reference), size).to(reference.device)].double()
        values.append(_squared_mmd(x, y))
    stacked = torch.stack(values)
    return float(stacked.mean()), float(stacked.std(correction=0))


def _chosen(draw: np.random.RandomState, count: int, size: int) -> Tensor:
    return torch.from_numpy(draw.choice(count, size, replace=False))


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate: pairs of a picture with itself are left out within a set."""
    n = len(x)
    within = sum(kernel.sum() - kernel.trace() for kernel in (_kernel(x, x), _kernel(y, y)))
    return within / (n * (n - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


class PrecisionRecall(NamedTuple):
    """Both are shares in [0, 1]."""

    precision: float  # of the generated pictures, inside the reference's manifold: quality
    recall: float  # of the reference pictures, inside the generated one's: variety


@checked
def precision_recall(
    reference: Float[Tensor, "m d"], generated: Float[Tensor, "n d"], *, k: Count = 3, chunk: Count = 2048
) -> PrecisionRecall:
    """Improved precision and recall: a manifold is balls around a set's features, to their k-th neighbours.

    Distances are in float64 on the features' device, `chunk` rows at a time, so nothing of size m x n is
    stored. Both shares depend on m and n: compare only equal sizes (10,000 each is usual). Raises DigitError
    if a set has k or fewer.
    """
    _check_widths(reference.shape[1], generated.shape[1])
    smaller = min(len(reference), len(generated))
    if smaller <= k:
        raise DigitError(f"{smaller} pictures have no {k}-th neighbours: give more pictures")
    # Centred features lose fewer digits in |x|^2 - 2 x y + |y|^2.
    centre = reference.double().mean(0)
    reference, generated = reference.double() - centre, generated.double() - centre
    return PrecisionRecall(
        precision=float(_inside(generated, reference, k, chunk).double().mean()),
        recall=float(_inside(reference, generated, k, chunk).double().mean()),
    )


def _inside(points: Tensor, manifold: Tensor, k: int, chunk: int) -> Bool[Tensor, " n"]:
    # A set's nearest neighbour is the picture itself, so its k-th neighbour is value k + 1.
    radii = torch.cat([_squared(rows, manifold).kthvalue(k + 1).values for rows in manifold.split(chunk)])
    # Equal pictures are at distance 0, but their product says about 1e-13: such a miss must not count as
    # outside.
    rounding = 1e-12 * manifold.square().sum(1).max()
    return torch.cat([(_squared(rows, manifold) <= radii + rounding).any(1) for rows in points.split(chunk)])


def _squared(rows: Tensor, columns: Tensor) -> Tensor:
    norms = rows.square().sum(1)[:, None] + columns.square().sum(1)[None]
    return torch.addmm(norms, rows, columns.T, alpha=-2).clamp_min_(0)


@checked
def inception_score(
    probabilities: Float[Tensor, "n c"],
    *,
    splits: Count = 10,
    split_size: Count | None = None,
    seed: int | None = 2020,
) -> tuple[float, float]:
    """Mean and standard deviation, over `splits` parts, of exp(E KL(p(y|x) || p(y))), each between 1 and c.

    The pictures are shuffled first by numpy's RandomState(seed), None leaves their order: torch-fidelity's
    defaults, which published scores used. With `split_size` the parts have that many pictures, the last one
    what is left, as in ADM's evaluation (5,000, in order). Raises DigitError if there are fewer pictures than
    splits or NaN among them.
    """
    n = len(probabilities)
    bounds = [i * n // splits for i in range(splits + 1)]
    if split_size is not None:
        bounds = [*range(0, n, split_size), n]
    if n == 0 or not 2 <= len(bounds) <= n + 1:
        raise DigitError(f"{n} pictures cannot be cut into {splits} splits: give more pictures")
    if not probabilities.isfinite().all():
        raise DigitError("some class probabilities are NaN or infinite: look for broken pictures or weights")
    if seed is not None:
        # numpy promises that RandomState's stream never changes.
        probabilities = probabilities[torch.from_numpy(np.random.RandomState(seed).permutation(n))]
    probabilities = probabilities.double()
    scores = []
    for start, stop in pairwise(bounds):
        part = probabilities[start:stop]
        # E KL(p || q) with q = E p is the entropy of q less the mean entropy of p.
        information = torch.special.entr(part.mean(0)).sum() - torch.special.entr(part).sum(1).mean()
        scores.append(information.exp())
    stacked = torch.stack(scores)
    return float(stacked.mean()), float(stacked.std(correction=0))


@checked
def class_accuracy(probabilities: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> float:
    """Share of pictures, in [0, 1], whose largest probability is their label's; logits serve as well.

    Raises DigitError if there are no pictures or a label is not in 0 .. c - 1.
    """
    if len(labels) != len(probabilities):
        raise DigitError(f"there are {len(labels)} labels for {len(probabilities)} pictures: give one each")
    if len(labels) == 0:
        raise DigitError("the class accuracy of no pictures is not defined: give pictures to measure")
    classes = probabilities.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DigitError(
            f"labels must be 0 to {classes - 1} for this classifier: use one trained on these classes"
        )
    return float((probabilities.argmax(1) == labels.to(probabilities.device)).double().mean())

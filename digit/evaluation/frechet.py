"""features -> Fréchet distance: how far apart two sets of pictures are, as Gaussians of their features."""

from dataclasses import dataclass

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor

from digit.errors import DigitError


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
        _check_widths(self, other)
        both = Moments(self.width, device=self.sum.device)
        both.n = self.n + other.n
        both.sum = self.sum + other.sum.to(self.sum.device)
        both.outer = self.outer + other.outer.to(self.sum.device)
        return both

    def over_processes(self) -> "Moments":
        """The moments of all processes' sets together; of this one's alone where no processes are joined."""
        both = Moments(self.width, device=self.sum.device)
        both.n, both.sum, both.outer = self.n, self.sum.clone(), self.outer.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            count = torch.tensor(self.n, device=self.sum.device)
            for part in (count, both.sum, both.outer):
                torch.distributed.all_reduce(part)
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


def frechet_distance(a: Moments | Gaussian, b: Moments | Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 sqrt(A B)) of two Gaussians (Dowson and Landau 1982), at least 0.

    Exact for singular covariances too: with A = L L^T, the eigenvalues of A B are those of the symmetric L^T
    B L, so they are real and no matrix square root is taken. On the device of `a`. Raises DigitError on
    different widths or fewer than two pictures.
    """
    _check_widths(a, b)
    mean_a, cov_a = a.mean, a.covariance
    mean_b, cov_b = b.mean.to(mean_a.device), b.covariance.to(mean_a.device)
    root = _root(cov_a)
    eigenvalues = torch.linalg.eigvalsh(root.T @ cov_b @ root)
    overlap = eigenvalues.clamp_min(0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap
    return max(float(distance), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """L with L L^T = covariance: Cholesky's, or the eigenvectors' where the covariance is singular."""
    root, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) == 0:
        return root
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


def _check_widths(a: Moments | Gaussian, b: Moments | Gaussian) -> None:
    if a.width != b.width:
        raise DigitError(
            f"features of widths {a.width} and {b.width} cannot be compared: use one network for both"
        )

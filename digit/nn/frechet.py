"""Two Gaussians -> their Fréchet distance; features drawn and real -> a loss by it (FD-loss).

The distance of a batch alone is mostly that of few samples. So moments run over batches, and the gradient is
that of the latest one's.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from digit.distributed import add_up, world_size

DECAY = 0.999  # of the moments, an update


def frechet(
    mean_a: Float[Tensor, " d"],
    cov_a: Float[Tensor, "d d"],
    mean_b: Float[Tensor, " d"],
    cov_b: Float[Tensor, "d d"],
    *,
    least: float = 0.0,
) -> Float[Tensor, ""]:
    """|mean_a - mean_b|^2 + tr(A + B - 2 sqrt(A B)) of two Gaussians, in float64.

    With A = L L^T the eigenvalues of A B are those of the symmetric L^T B L, so they are real and no matrix
    square root is taken. For a gradient by B those below `least` of the largest are set to that, since the
    root of zero has none.
    """
    root = _root(cov_a)
    values = torch.linalg.eigvalsh(root.T @ cov_b @ root)
    overlap = values.clamp(min=least * values.detach().amax().clamp(min=0)).sqrt().sum()
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap


def _root(covariance: Tensor) -> Tensor:
    """L with L L^T = covariance: Cholesky's, or the eigenvectors' where the covariance is singular."""
    root, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) == 0:
        return root
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


class RunningMoments(nn.Module):
    """Mean and covariance of features over batches, in float64, the older ones fading."""

    mean: Tensor
    outer: Tensor
    share: Tensor

    def __init__(self, width: int) -> None:
        """Of `width` features, none seen yet."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("outer", torch.zeros(width, width, dtype=torch.float64))
        self.register_buffer("share", torch.zeros((), dtype=torch.float64))  # of all weights that were given

    def forward(self, features: Float[Tensor, "b d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Mean and covariance with these features, of all processes together; the gradient is that of these.

        Where nothing is learned they are those of before.
        """
        features = features.double()
        mean, outer = features.mean(0), features.T @ features / len(features)
        if self.training and torch.is_grad_enabled():
            self._follow(mean.detach().clone(), outer.detach().clone())
        mean = self.mean / self.share + (mean - mean.detach())
        outer = self.outer / self.share + (outer - outer.detach())
        return mean, outer - mean[:, None] * mean

    def _follow(self, mean: Tensor, outer: Tensor) -> None:
        """Add a batch, the mean over all processes."""
        add_up(mean, outer)
        self.mean.lerp_(mean / world_size(), 1 - DECAY)
        self.outer.lerp_(outer / world_size(), 1 - DECAY)
        self.share.lerp_(torch.ones_like(self.share), 1 - DECAY)


class FrechetLoss(nn.Module):
    """The Fréchet distance of drawn pictures' features to real ones', divided by its own value."""

    def __init__(self, width: int, *, start: int = 100) -> None:
        """For `start` batches it is 0, while moments gather: those of few samples are far from all others."""
        super().__init__()
        self.drawn, self.real, self.start = RunningMoments(width), RunningMoments(width), start
        self.distance = torch.zeros(())

    def forward(self, drawn: Float[Tensor, "b d"], real: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
        """1 with the gradient of the distance's logarithm; `distance` is its value, detached."""
        mean, covariance = self.drawn(drawn)
        wanted, spread = (each.detach() for each in self.real(real.detach()))
        # A GPU finds no eigenvalues where few samples leave most of them at zero: none are asked for.
        if self.drawn.share <= 1 - DECAY ** (self.start + 0.5):
            return 0 * mean.sum().float()
        distance = frechet(wanted, spread, mean, covariance, least=1e-12)
        self.distance = distance.detach().float()
        return (distance / self.distance.double().clamp(min=1e-9)).float()

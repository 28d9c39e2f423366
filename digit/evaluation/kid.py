"""features -> kernel distance (KID on InceptionV3; arXiv:1801.01401): unbiased also for small sets."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from digit.errors import DigitError


def kernel_distance(
    samples: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """Mean and standard deviation, over random subsets, of the squared MMD with the kernel (x y / d + 1)^3.

    Of each set `size` pictures are drawn without repetition, by numpy's RandomState(seed); all defaults and
    the order of the draws are torch-fidelity's. In float64 on the features' device. The mean may be slightly
    below 0 for sets of one distribution. Raises DigitError if a set has fewer than `size` or NaN.
    """
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

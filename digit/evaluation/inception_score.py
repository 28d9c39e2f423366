"""class probabilities -> inception score: sharp and varied guesses score high (arXiv:1606.03498)."""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from digit.errors import DigitError


def inception_score(
    probabilities: Float[Tensor, "n c"],
    *,
    splits: int = 10,
    split_size: int | None = None,
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

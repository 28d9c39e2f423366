"""Which pictures a training step sees, as a pure function of (seed, step)."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int

from digit.errors import DigitError


def order(seed: int, step: int, batch_size: int, n: int) -> Int[np.ndarray, " b"]:
    """Indices in [0, n) of a step, from 0: sample k is position step * batch_size + k of endless epochs.

    Every epoch is a fresh permutation of n; batches run across epoch borders, so nothing is dropped or
    repeated, and a resumed run continues the order exactly. Raises DigitError on an empty set or batch, and
    on a batch of more than a thousand epochs.
    """
    if n < 1 or batch_size < 1 or step < 0:
        raise DigitError(
            f"no order for n={n}, batch_size={batch_size}, step={step}: give a picture and a batch"
        )
    if batch_size > 1000 * n:
        raise DigitError(
            f"a batch of {batch_size:,} would hold each of {n:,} pictures {batch_size // n:,} times: give a "
            "smaller --batch"
        )
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, places = np.divmod(positions, n)
    indices = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        indices[inside] = _permutation(seed, int(epoch), n)[places[inside]]
    return indices


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    # Sorted raw bits: numpy keeps a bit generator's stream for ever, but not what `permutation` makes of it.
    keys = np.random.PCG64(np.random.SeedSequence((seed % 2**64, epoch))).random_raw(n)
    permutation = np.argsort(keys, kind="stable").astype(np.int64)
    permutation.flags.writeable = False
    return permutation

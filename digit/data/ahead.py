"""Batches on their way to the device: made a step ahead, and copied without waiting."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


class Ahead(Generic[T]):
    """What `make(step)` gives for any step; that of the step after it is made in the background meanwhile.

    An error of `make` is raised where its step is asked for.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make, self._worker = make, ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[T]] = {}  # by step

    def __call__(self, step: int) -> T:
        """Of a step, counted from 0."""
        for old in [key for key in self._ahead if key not in (step, step + 1)]:
            self._ahead.pop(old).cancel()
        for wanted in (step, step + 1):
            if wanted not in self._ahead:
                self._ahead[wanted] = self._worker.submit(self._make, wanted)
        return self._ahead.pop(step).result()


def sent(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The values on `device`; the caller does not wait until the GPU has done what it was given before."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

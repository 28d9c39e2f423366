"""What exists for speed on a GPU: forms that mean the same as the plain functions, and where they are chosen.

`usable` is the one predicate. Each function here is a form of the plain function of its name (see
`digit.nn.forms`): it takes the calls that its kernels can, and is NotImplemented for the others. What runs
is imported inside, for Triton is only where torch is made for GPUs.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor


def usable(device: torch.device) -> bool:
    """Whether kernels run on a device: a GPU, and Triton is installed."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def nearest(vectors: Tensor, table: Any, **how: Any) -> Any:
    """`nn.nearest.nearest` by fused products and search."""
    return NotImplemented

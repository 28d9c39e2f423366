"""vectors -> the nearest centroid of each by squared distance, without the table of all distances."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.nn.forms import replaceable


@replaceable
@torch.no_grad()
def nearest(
    vectors: Float[Tensor, "m d"], centroids: Float[Tensor, "k d"], squares: Float[Tensor, " k"]
) -> Int[Tensor, " m"]:
    """Index of the smallest |c|^2 - 2 x.c for each vector x, by exact float32; of equal ones the lowest.

    `squares` are the |c|^2, float32 as the centroids are.
    """
    with exact_products(vectors.device):
        found = [
            torch.addmm(squares, part.float(), centroids.T, alpha=-2).min(dim=1).indices
            for part in vectors.split(rows_at_once(len(centroids), vectors.device))
        ]
    return torch.cat(found)


def rows_at_once(k: int, device: torch.device) -> int:
    """Vectors whose distances to k centroids stay within 16 MiB (CPU) or 1 GiB (GPU)."""
    room = 1 << 22 if device.type == "cpu" else 1 << 28
    return max(256, room // k)


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Float32 products without TF32 or autocast: half precision changes one code in fifty to a hundred."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)

"""The kernels of the nearest-centroid search at odd sizes, against torch."""

import pytest
import torch

from digit.fast.kernels.nearest import Tiles, halve, scan

SIZES = [
    (70, 40, 24, Tiles(32, 16, 16, 4, 2)),
    (33, 33, 40, Tiles(16, 32, 16, 4, 2, False)),
    (64, 16, 32, Tiles(32, 16, 16)),
    (5, 2, 8, Tiles(16, 16, 16)),
    (1, 300, 72, Tiles(16, 256, 64)),
]


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy of the interpreter


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("count", "k", "width", "tiles"), SIZES)
def test_best_two(count, k, width, tiles):
    vectors, centroids = (torch.randn(n, width).half() for n in (count, k))
    squares = centroids.float().square().sum(1)
    codes, best, second = scan(vectors, centroids, squares / 2, tiles=tiles)
    gains = vectors.float() @ centroids.float().T - squares / 2
    expected = gains.topk(2, dim=1).values
    torch.testing.assert_close(best, expected[:, 0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(second, expected[:, 1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(gains.gather(1, codes.long()[:, None])[:, 0], best, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_halves(dtype):
    vectors = torch.randn(37, 40).to(dtype)
    values, lengths, losses = halve(vectors)
    assert torch.equal(values, vectors.half())
    torch.testing.assert_close(lengths, vectors.float().norm(dim=1))
    torch.testing.assert_close(losses, (vectors.float() - vectors.half().float()).norm(dim=1))
    assert losses.max() == 0 or dtype == torch.float32

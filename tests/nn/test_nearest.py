"""The plain nearest-centroid search: exact, in pieces that change nothing, whatever else is switched on."""

import torch

from digit.nn import nearest as module
from digit.nn.nearest import exact_products, nearest, rows_at_once


def some(n: int, k: int, width: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors, centroids = (torch.randn(count, width, generator=generator) for count in (n, k))
    return vectors, centroids, centroids.square().sum(1)


def test_it_is_the_float64_argmin():
    vectors, centroids, squares = some(900, 50)
    expected = torch.cdist(vectors.double(), centroids.double()).argmin(1)
    assert torch.equal(nearest(vectors, centroids, squares), expected)
    half = vectors.half()  # half-precision vectors, exact distances
    expected = torch.cdist(half.double(), centroids.double()).argmin(1)
    assert torch.equal(nearest(half, centroids, squares), expected)


def test_squares_are_those_given():
    vectors, centroids, squares = some(40, 5)
    squares[3] = -1e6
    assert (nearest(vectors, centroids, squares) == 3).all()


def test_pieces_change_nothing(monkeypatch):
    given = some(100, 7)
    whole = nearest(*given)
    monkeypatch.setattr(module, "rows_at_once", lambda k, device: 33)
    assert torch.equal(nearest(*given), whole)
    assert nearest(given[0][:0], *given[1:]).shape == (0,)


def test_pieces_are_as_large_as_the_device_has_room_for():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert rows_at_once(8192, cpu) * 8192 * 4 == 16 << 20
    assert rows_at_once(8192, gpu) * 8192 * 4 == 1 << 30
    assert rows_at_once(1 << 20, cpu) == 256


def test_settings_around_do_not_reach_the_products_and_are_left_as_they_were():
    given = some(200, 60)
    before, exact = torch.get_float32_matmul_precision(), nearest(*given)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(nearest(*given), exact)
            with exact_products(given[0].device):
                assert torch.get_float32_matmul_precision() == "highest"
                assert not torch.is_autocast_enabled("cpu")
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)

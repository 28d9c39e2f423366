"""The fused nearest-centroid search as a form: against float64, with ties, overflow and bad luck."""

import pytest
import torch

import digit.fast
from digit import kmeans
from digit.fast import assigning
from digit.fast.assigning import Halves, nearest, slack
from digit.fast.kernels import nearest as kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy of the interpreter


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def squares(centroids: torch.Tensor) -> torch.Tensor:
    return centroids.square().sum(1)


def assert_nearest(codes, vectors, centroids):
    """The codes are float64's but where float32 cannot tell: distances apart by a few of its last bits."""
    vectors, centroids = vectors.double(), centroids.double()
    chosen = (vectors - centroids[codes]).square().sum(1)
    best = torch.cdist(vectors, centroids, compute_mode="donot_use_mm_for_euclid_dist").square().min(1).values
    size = (vectors.norm(dim=1) + centroids.norm(dim=1).max()).square()
    assert ((chosen - best) / size).max() < 2 * torch.finfo(torch.float32).eps


def test_codes_are_exact_where_float16_errs():
    """Pairs of centroids much closer together than float16 resolves, and vectors near the middle of each."""
    width = 64
    ones = torch.randn(20, width)
    centroids = torch.cat([ones, ones + 1e-2 * torch.randn(20, width)])
    vectors = (ones + centroids[20:]).repeat(6, 1) / 2 + 5e-3 * torch.randn(120, width)
    expected = torch.cdist(vectors.double(), centroids.double()).argmin(1)
    rounded = kernels.scan(vectors.half(), centroids.half(), squares(centroids) / 2)[0]
    assert (rounded != expected).float().mean() > 0.02
    plain = assigning.plain.plain(vectors, centroids, squares(centroids))
    codes = nearest(vectors, centroids, squares(centroids))
    assert torch.equal(codes, plain)
    assert (codes == expected).float().mean() > 0.97
    assert_nearest(codes, vectors, centroids)


def test_the_bound_holds_and_few_vectors_are_searched_again(monkeypatch):
    """Never is a code taken as sure that float64 does not find, and most are taken as sure."""
    vectors, centroids = torch.randn(200, 64) * 3, torch.randn(150, 64) * 3
    halves, rounded = (Halves(*kernels.halve(each)) for each in (vectors, centroids))
    lengths = squares(centroids)
    codes, best, second = kernels.scan(halves.values, rounded.values, lengths / 2)
    gap = slack(halves, rounded, lengths, best, second)
    sure = best - second > gap
    expected = torch.cdist(vectors.double(), centroids.double()).argmin(1)
    assert sure.float().mean() > 0.9
    assert torch.equal(codes[sure].long(), expected[sure])
    gains = vectors.double() @ centroids.double().T - lengths.double() / 2
    assert ((gains.max(1).values - best).abs() < gap / 2).all()
    again = []
    monkeypatch.setattr(
        assigning.plain, "plain", lambda rows, *given: again.append(rows) or codes[~sure].long()
    )
    nearest(vectors, centroids, lengths)
    assert torch.equal(torch.cat(again), vectors[~sure])


def test_ties_go_to_the_lowest_index_and_overflow_is_searched_again():
    centroids = torch.randn(12, 16)
    centroids[7] = centroids[2]
    vectors = torch.cat([centroids[[7, 2, 5]], 1e6 * centroids[[3, 4]]])
    expected = torch.cdist(vectors.double(), centroids.double()).argmin(1)
    assert expected[:2].tolist() == [2, 2]
    assert torch.equal(nearest(vectors, centroids, squares(centroids)), expected)
    centroids[3] *= 1e6  # now a centroid overflows too, so no code is sure
    expected = torch.cdist(vectors.double(), centroids.double()).argmin(1)
    assert torch.equal(nearest(vectors, centroids, squares(centroids)), expected)


def test_pieces_and_memory_formats_change_nothing(monkeypatch):
    vectors, centroids = torch.randn(50, 24), torch.randn(9, 24)
    whole = nearest(vectors, centroids, squares(centroids))
    assert torch.equal(nearest(vectors.T.contiguous().T, centroids, squares(centroids)), whole)
    monkeypatch.setattr(assigning, "AT_ONCE", 17)
    assert torch.equal(nearest(vectors, centroids, squares(centroids)), whole)


def test_what_the_kernel_cannot_take_is_left_to_the_plain_search(monkeypatch):
    monkeypatch.setattr(digit.fast, "usable", lambda device: True)
    for width, count in ((12, 5), (16, 0)):
        vectors, centroids = torch.randn(count, width), torch.randn(3, width)
        assert digit.fast.nearest(vectors, centroids, squares(centroids)) is NotImplemented
        assert kmeans.assign(vectors, centroids).shape == (count,)


def test_a_fit_is_that_of_the_plain_path(of_both, monkeypatch):
    vectors = torch.randn(200, 16) * torch.linspace(0.3, 2, 16)
    taken = []
    form = digit.fast.nearest
    monkeypatch.setattr(digit.fast, "nearest", lambda *given: taken.append(form(*given)) or taken[-1])
    plain, fused = of_both(lambda: kmeans.fit(vectors, 12, iterations=3))
    assert len(taken) == 4 and not any(each is NotImplemented for each in taken)
    assert torch.equal(fused.counts, plain.counts)
    torch.testing.assert_close(fused.centroids, plain.centroids, rtol=1e-6, atol=1e-6)
    assert fused.inertia == pytest.approx(plain.inertia, rel=1e-6)


def test_a_fit_that_settles_or_splits_is_that_of_the_plain_path(of_both):
    groups = 4 * torch.randn(5, 16)
    vectors = groups.repeat(12, 1) + 0.1 * torch.randn(60, 16)
    start = torch.cat([groups[:3], groups[:3] + 50])  # three of six are nearest to nothing
    plain, fused = of_both(lambda: kmeans.fit(vectors, 6, start=start, iterations=9))
    assert fused.iterations == plain.iterations < 9
    torch.testing.assert_close(fused.centroids, plain.centroids, rtol=1e-6, atol=1e-6)
    assert torch.equal(fused.counts, plain.counts) and fused.counts.min() > 0

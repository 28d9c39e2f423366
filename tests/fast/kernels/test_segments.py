"""Sums by code: against float64, with codes that nothing has, and the same for the same input."""

import pytest
import torch

from digit.fast.kernels.segments import add_segments, means, plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("count", "k", "width"), [(1000, 7, 24), (90, 120, 8), (1, 3, 5), (513, 2, 300)])
def test_sums_and_counts(count, k, width):
    torch.manual_seed(0)
    vectors = torch.randn(count, width, device=DEVICE)
    codes = torch.randint(0, k, (count,), device=DEVICE)
    codes[codes == 3] = 2

    def added(times):
        sums = torch.zeros(k, width, dtype=torch.float64, device=DEVICE)
        counts = torch.zeros(k, dtype=torch.int64, device=DEVICE)
        for _ in range(times):
            add_segments(sums, counts, vectors, codes)
        return sums, counts

    sums, counts = added(1)
    expected = torch.zeros(k, width, dtype=torch.float64, device=DEVICE).index_add_(
        0, codes, vectors.double()
    )
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(counts, codes.bincount(minlength=k))
    assert torch.equal(added(1)[0], sums)
    sums, twice = added(2)
    assert torch.equal(twice, 2 * counts)
    torch.testing.assert_close(sums, 2 * expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [8, 300])
def test_means_and_their_inertia(width):
    torch.manual_seed(0)
    vectors, centroids = torch.randn(200, width, device=DEVICE), torch.randn(7, width, device=DEVICE)
    codes = torch.randint(0, 6, (200,), device=DEVICE)  # nothing has the last
    sums = torch.zeros(7, width, dtype=torch.float64, device=DEVICE).index_add_(0, codes, vectors.double())
    counts = codes.bincount(minlength=7)
    found, losses = means(sums, counts, centroids)
    for code in range(6):
        torch.testing.assert_close(found[code], vectors[codes == code].mean(0), rtol=1e-4, atol=1e-5)
    assert torch.equal(found[6], centroids[6])
    inertia = vectors.double().square().sum() + losses.sum()
    torch.testing.assert_close(
        inertia, (vectors - centroids[codes]).double().square().sum(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("k", [2**15, 2**15 + 1, 40_000])
def test_codes_beyond_sixteen_bits_keep_their_places(k):
    torch.manual_seed(0)
    codes = torch.randint(0, k, (300,), device=DEVICE)
    codes[:280] = k - 1  # more than one piece
    order, owner, first, starts = plan(codes, k)
    assert torch.equal(codes[order], codes.sort().values)
    assert torch.equal(starts.diff(), codes.bincount(minlength=k))
    assert torch.equal(owner[: int(first[-1])], torch.repeat_interleave(first.diff()))
    assert owner[int(first[-1]) :].eq(k).all() and first[-1] - first[-2] == 2

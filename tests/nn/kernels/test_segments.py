"""Sums by code: against float64, with codes that nothing has, and the same for the same input."""

import pytest
import torch

from digit.nn.kernels.segments import plan, segment_sums

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("count", "k", "width"), [(1000, 7, 24), (300, 400, 8), (1, 3, 5), (513, 2, 300)])
def test_sums_and_counts(count, k, width):
    torch.manual_seed(0)
    vectors = torch.randn(count, width, device=DEVICE)
    codes = torch.randint(0, k, (count,), device=DEVICE)
    codes[codes == 3] = 2
    sums, counts = segment_sums(vectors, codes, k)
    expected = torch.zeros(k, width, dtype=torch.float64, device=DEVICE).index_add_(
        0, codes, vectors.double()
    )
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(counts, codes.bincount(minlength=k))
    assert torch.equal(segment_sums(vectors, codes, k)[0], sums)


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

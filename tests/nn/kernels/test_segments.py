"""Sums by code: against float64, with codes that nothing has, and the same for the same input."""

import pytest
import torch

from digit.nn.kernels.segments import segment_sums

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("count", "k", "width"), [(1000, 7, 24), (300, 40_000, 8), (1, 3, 5), (513, 2, 300)])
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

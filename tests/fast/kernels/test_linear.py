import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels.linear import few_rows


def test_few_rows_fuses_what_rides_along():
    torch.manual_seed(0)
    x, matrix, bias = torch.randn(3, 48), torch.randn(40, 48), torch.randn(40)
    inner, residual, outer = torch.randn(2, 48), torch.randn(3, 40), torch.randn(2, 40)
    plain = few_rows(x, matrix, None)
    torch.testing.assert_close(plain, x @ matrix.T, atol=1e-5, rtol=1e-5)
    kept = few_rows(x, matrix, bias, residual=residual)
    torch.testing.assert_close(kept, F.linear(x, matrix, bias) + residual, atol=1e-5, rtol=1e-5)
    seen = torch.empty(3, 2)
    how = {"norm": tuple(inner), "statistics": seen, "gelu": True}
    found = few_rows(x, matrix, bias, **how)
    wanted = F.gelu(F.linear(F.layer_norm(x, (48,), *inner), matrix, bias))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    again = {"residual": residual, "residual_norm": tuple(outer), "residual_statistics": torch.empty(3, 2)}
    few_rows(residual, matrix[:, :40], None, norm=tuple(outer), statistics=again["residual_statistics"])
    found = few_rows(x, matrix, bias, **again)
    wanted = F.linear(x, matrix, bias) + F.layer_norm(residual, (40,), *outer)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_statistics_of_one_pass_are_those_of_two(mean):
    torch.manual_seed(0)
    x, seen = torch.randn(2, 48) + mean, torch.empty(2, 2)
    few_rows(x, torch.randn(4, 48), None, norm=tuple(torch.randn(2, 48)), statistics=seen)
    wide = x.double()
    torch.testing.assert_close(seen[:, 0].double(), wide.mean(1), atol=1e-6, rtol=1e-6)
    wanted = (wide.var(1, correction=0) + 1e-5).rsqrt()
    torch.testing.assert_close(seen[:, 1].double(), wanted, atol=0, rtol=1e-5)

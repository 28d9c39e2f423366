import torch
import torch.nn.functional as F

from digit.nn.kernels.linear import few_rows
from digit.nn.kernels.norm import norm


def test_norm_adds_the_shift_first():
    torch.manual_seed(0)
    x, (shift, weight, bias) = torch.randn(5, 48), torch.randn(3, 48).unbind(0)
    found = norm(x, shift, weight, bias, eps=1e-5, out=torch.empty_like(x))
    torch.testing.assert_close(found, F.layer_norm(x + shift, (48,), weight, bias))
    found = norm(x, None, weight, bias, eps=1e-5, out=torch.empty_like(x))
    torch.testing.assert_close(found, F.layer_norm(x, (48,), weight, bias))


def test_few_rows_fuses_what_rides_along():
    torch.manual_seed(0)
    x, matrix, bias = torch.randn(3, 48), torch.randn(40, 48), torch.randn(40)
    inner, residual, outer = torch.randn(2, 48), torch.randn(3, 40), torch.randn(2, 40)
    plain = few_rows(x, matrix, None, elements=256, warps=1)
    torch.testing.assert_close(plain, x @ matrix.T, atol=1e-5, rtol=1e-5)
    kept = few_rows(x, matrix, bias, residual=residual, elements=256, warps=1)
    torch.testing.assert_close(kept, F.linear(x, matrix, bias) + residual, atol=1e-5, rtol=1e-5)
    how = {"norm": tuple(inner), "gelu": True, "residual": residual, "residual_norm": tuple(outer)}
    found = few_rows(x, matrix, bias, **how, elements=256, warps=1)
    hidden = F.gelu(F.linear(F.layer_norm(x, (48,), *inner), matrix, bias))
    torch.testing.assert_close(found, hidden + F.layer_norm(residual, (40,), *outer), atol=1e-5, rtol=1e-4)

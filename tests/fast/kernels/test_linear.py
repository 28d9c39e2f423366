import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels import linear as linear_module
from digit.fast.kernels.linear import FEW, counters, linear


@pytest.fixture(autouse=True)
def parts_of_16(monkeypatch):
    """So that 48 inputs have three parts."""
    monkeypatch.setattr(linear_module, "PART", 16)


@pytest.mark.parametrize("inputs", [16, 32, 48, 72])
@pytest.mark.parametrize("gelu", ["", "exact", "tanh"])
@pytest.mark.parametrize("parts", [False, True])
def test_few_rows_and_many_mean_the_same(parts, gelu, inputs):
    torch.manual_seed(0)
    x, matrix, bias = torch.randn(FEW + 3, inputs), torch.randn(40, inputs), torch.randn(40)
    residual, arrived = torch.randn(FEW + 3, 40), counters(40, torch.device("cpu"))
    wanted = F.linear(x, matrix, bias)
    if gelu:
        wanted = F.gelu(wanted, approximate="tanh" if gelu == "tanh" else "none")
    how = {"gelu": gelu, "arrived": arrived, "parts": parts}
    found = linear(x, matrix, bias, residual=residual, **how)
    torch.testing.assert_close(found, wanted + residual, atol=2e-5, rtol=1e-5)
    few = linear(x[:3], matrix, bias, residual=residual[:3], **how)
    torch.testing.assert_close(few, found[:3], atol=1e-5, rtol=1e-5)
    bare = linear(x[:3], matrix, **how)
    torch.testing.assert_close(bare, linear(x, matrix, **how)[:3], atol=1e-5, rtol=1e-5)
    assert not arrived.any()

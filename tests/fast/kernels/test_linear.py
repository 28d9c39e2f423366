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


@pytest.mark.parametrize("parts", [False, True])
def test_programs_that_go_on_with_the_next_large_tile(monkeypatch, parts):
    """Moved by the copy engine, also where a tile lies partly outside; the last has fewer to do."""
    torch.manual_seed(0)
    monkeypatch.setattr(linear_module, "_described", lambda x: True)
    shapes = (30, 48), (40, 48), (40,), (30, 40)
    x, matrix, bias, residual = (torch.randn(*shape).to(torch.float16) for shape in shapes)
    bias = bias.float()
    how = {"gelu": "tanh", "residual": residual, "parts": parts, "arrived": counters(40, torch.device("cpu"))}
    monkeypatch.setattr(linear_module, "SPREAD", 0)
    plain = linear(x, matrix, bias, **how)
    monkeypatch.setattr(linear_module, "MANY", 1)
    monkeypatch.setattr(linear_module, "LARGE", (8, 16, 16, 1, 1))
    monkeypatch.setattr(linear_module, "_machine", lambda device: (3, 233_472))
    assert torch.equal(linear(x, matrix, bias, **how), plain)
    product = F.linear(x.float(), matrix.float(), bias)
    wanted = F.gelu(product, approximate="tanh") + residual.float()
    torch.testing.assert_close(plain.float(), wanted, atol=2e-3, rtol=2e-3)

import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels import gelu
from digit.fast.kernels.gelu import BiasGelu


@pytest.mark.parametrize(("rows", "width"), [(5, 8), (70, 200)])
def test_values_and_gradients_are_those_of_exact_gelu(rows, width, monkeypatch):
    monkeypatch.setattr(gelu, "STRIPS", 2)  # so that each has several turns
    torch.manual_seed(0)
    hidden, bias = (torch.randn(*shape) for shape in ((rows, width), (width,)))
    inputs = [hidden.requires_grad_(), bias.requires_grad_()]
    found, wanted = BiasGelu.apply(*inputs), F.gelu(hidden + bias)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    given = torch.randn_like(wanted)
    for a, b in zip(*(torch.autograd.grad(y, inputs, given) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

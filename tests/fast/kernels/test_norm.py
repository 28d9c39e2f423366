import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels import norm as norm_module
from digit.fast.kernels.norm import norm


@pytest.mark.parametrize("tile", [(1, 1), (2, 1), (8, 4)])
def test_norm_adds_the_shift_first(monkeypatch, tile):
    monkeypatch.setattr(norm_module, "tile", lambda rows, width: tile)
    torch.manual_seed(0)
    x, (shift, weight, bias) = torch.randn(5, 48), torch.randn(3, 48).unbind(0)
    found = norm(x, shift, weight, bias, eps=1e-5, out=torch.empty_like(x))
    torch.testing.assert_close(found, F.layer_norm(x + shift, (48,), weight, bias))
    found = norm(x, None, weight, bias, eps=1e-5, out=torch.empty_like(x))
    torch.testing.assert_close(found, F.layer_norm(x, (48,), weight, bias))

import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels import norm as norm_module
from digit.fast.kernels.norm import norm

TILES = [(1, 1), (2, 1), (8, 4)]


def of(monkeypatch, tile, *given):
    monkeypatch.setattr(norm_module, "tile", lambda rows, width: tile)
    return norm(*given)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_norm_is_layer_norm_with_one_result_for_all_tiles(monkeypatch, mean, scale):
    torch.manual_seed(0)
    x, (weight, bias) = (torch.randn(5, 48) + mean) * scale, torch.randn(2, 48).unbind(0)
    first, *others = (of(monkeypatch, tile, x, weight, bias) for tile in TILES)
    wanted = F.layer_norm(x.double(), (48,), weight.double(), bias.double())
    # Numbers about 1000 have three digits less of their deviation from it.
    torch.testing.assert_close(first.double(), wanted, atol=1e-5 if mean == 0 else 2e-3, rtol=1e-5)
    assert all(torch.equal(first, other) for other in others)


def test_outliers_leave_the_others_their_digits():
    torch.manual_seed(0)
    x, (weight, bias) = torch.randn(3, 64), torch.randn(2, 64).unbind(0)
    x[:, 7] = 3000.0
    found, wanted = norm(x, weight, bias), F.layer_norm(x.double(), (64,), weight.double(), bias.double())
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-5)

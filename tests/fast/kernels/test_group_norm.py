"""GroupNorm and SiLU in two passes, with what rides along: against torch."""

import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels.group_norm import apply, double_statistics, statistics, to_pixels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy of the interpreter


def picture(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(*shape, device=DEVICE, dtype=dtype) * 2 + 3
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 32, 5, 7), 32), ((1, 64, 20, 20), 8), ((3, 16, 33, 33), 16)]
)
@pytest.mark.parametrize("add", [True, False])
def test_norm(shape, groups, add):
    torch.manual_seed(0)
    x, other = picture(*shape), picture(*shape) if add else None
    weight, bias = torch.randn(2, shape[1], device=DEVICE)
    whole, affine = statistics(x, weight, bias, groups, 1e-6, add=other)
    expected = x + other if add else x
    torch.testing.assert_close(whole, expected)
    normed = F.silu(F.group_norm(expected, groups, weight, bias, 1e-6))
    torch.testing.assert_close(apply(whole, affine), normed, rtol=1e-4, atol=1e-4)


def test_norm_far_from_zero():
    torch.manual_seed(0)
    x = picture(1, 32, 24, 24) * 0.01 + 100
    one = torch.ones(32, device=DEVICE)
    whole, affine = statistics(x, one, 0 * one, 8, 1e-6)
    expected = F.silu(F.group_norm(x.double(), 8, eps=1e-6)).float()
    torch.testing.assert_close(apply(whole, affine), expected, rtol=1e-2, atol=1e-2)


def test_doubled_side():
    torch.manual_seed(0)
    phases, phase_bias = picture(2, 4 * 16, 4, 6), torch.randn(16, device=DEVICE)
    weight, bias = torch.randn(2, 16, device=DEVICE)
    whole, affine = double_statistics(phases, phase_bias, weight, bias, 16, 1e-6)
    expected = torch.empty(2, 16, 6, 10, device=DEVICE)
    for i in range(2):
        for j in range(2):
            part = phases[:, 16 * (2 * i + j) :][:, :16, i : i + 3, j : j + 5]
            expected[:, :, i::2, j::2] = part + phase_bias[:, None, None]
    torch.testing.assert_close(whole, expected.to(memory_format=torch.channels_last))
    normed = F.silu(F.group_norm(expected, 16, weight, bias, 1e-6))
    torch.testing.assert_close(apply(whole, affine), normed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_pixels(kind):
    torch.manual_seed(0)
    x = picture(2, 16, 9, 13)
    affine = tuple(torch.randn(2, 2, 16, device=DEVICE))
    weight, bias = torch.randn(3, 16, 3, 3, device=DEVICE) * 0.1, torch.randn(3, device=DEVICE)
    matrix = F.pad(weight.permute(1, 2, 3, 0).reshape(16, 27), (0, 5)).contiguous()
    out = torch.empty(2, 3, 9, 13, dtype=kind, device=DEVICE)
    to_pixels(x, affine, matrix, bias, -1.0, 1.0, out)
    normed = F.silu(x * affine[0][:, :, None, None] + affine[1][:, :, None, None])
    expected = ((F.conv2d(normed, weight, bias, padding=1) + 1) / 2).clamp(0, 1)
    if kind == torch.uint8:
        assert ((expected * 255).round() - out.float()).abs().max() <= 1
    else:
        torch.testing.assert_close(out, expected, rtol=2e-3, atol=2e-3)


def test_an_overflow_can_be_seen_in_float_pixels():
    x, bias = picture(1, 16, 2, 2), torch.zeros(3, device=DEVICE)
    affine = torch.full((1, 16), float("nan"), device=DEVICE), torch.zeros(1, 16, device=DEVICE)
    out = torch.empty(1, 3, 2, 2, device=DEVICE)
    to_pixels(x, affine, torch.ones(16, 32, device=DEVICE), bias, 0.0, 1.0, out)
    assert out.isnan().all()

"""A sum, its dropout and its LayerNorm as one kernel, beside torch's own."""

import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels import add_norm
from digit.fast.kernels.add_norm import AddNorm

MIX = 0xFFFFFFFF


def finished(x):
    """MurmurHash3's finaliser of 32-bit numbers, in 64."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & MIX
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & MIX
    return x ^ (x >> 16)


def mask(seed, rows, width, share):
    """What the kernels keep."""
    keys = finished((torch.arange(rows) + seed) & MIX)
    places = (torch.arange(width) * 0x9E3779B1) & MIX
    return (finished(places ^ keys[:, None]) >> 8) >= round(share * (1 << 24))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_is_the_same_mask_forward_and_backward(monkeypatch, share):
    monkeypatch.setattr(add_norm, "PROGRAMS", 9)  # fewer than rows, so that each has several turns
    rows, width = 60, 40
    torch.manual_seed(0)
    inputs = [torch.randn(rows, width), torch.randn(width), torch.randn(rows, width)]
    inputs = [each.requires_grad_() for each in (*inputs, torch.rand(width), torch.randn(width))]
    branch, bias, residual, gain, shift = inputs
    seeds = torch.tensor([3, -5], dtype=torch.int32)
    first, second = AddNorm.apply(branch, bias, residual, gain, shift, seeds, 1, share, 1e-5)
    kept = mask(-5, rows, width, share)
    wanted = residual + torch.where(kept, (branch + bias) / (1 - share), 0.0)
    wanted = F.layer_norm(wanted, (width,), gain, shift, 1e-5)
    torch.testing.assert_close(first, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(first, second)
    one, two = torch.randn_like(first), torch.randn_like(first)
    found = torch.autograd.grad((first * one + second * two).sum(), inputs)
    right = torch.autograd.grad((wanted * (one + two)).sum(), inputs)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_masks_keep_their_share_and_differ_by_seed_and_row():
    kept = torch.stack([mask(seed, 256, 512, 0.1).double() for seed in (0, 1, 2, -1, 12345)])
    deviation = 0.3
    assert (kept.mean((1, 2)) - 0.9).abs().max() < 5 * deviation / 362
    for axis, count in ((1, 256), (2, 512)):
        assert (kept.mean(axis) - 0.9).abs().max() < 6 * deviation / count**0.5
    correlations = torch.corrcoef(kept.flatten(1)) - torch.eye(5)
    assert correlations.abs().max() < 5 / 362

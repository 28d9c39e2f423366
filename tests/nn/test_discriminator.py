"""Discriminators: pictures of a batch are judged apart, losses at their known values."""

import math

import pytest
import torch

from digit.nn.discriminator import MapDiscriminator, PatchDiscriminator, preference


def test_pictures_of_a_batch_are_judged_apart():
    torch.manual_seed(0)
    pixels, maps = torch.rand(4, 3, 16, 16), [torch.randn(4, 6, 5, 5), torch.randn(4, 3, 1, 1)]
    patches, heads = PatchDiscriminator(8, 2), MapDiscriminator([6, 3], 8)
    torch.testing.assert_close(patches(pixels[:1])[0], patches(pixels)[0][:1])
    alone = heads([each[:1] for each in maps])
    for one, all_four in zip(alone, heads(maps), strict=True):
        torch.testing.assert_close(one, all_four[:1])
    assert [tuple(each.shape) for each in heads(maps)] == [(4, 1, 5, 5), (4, 1, 1, 1)]
    assert patches(pixels)[0].shape == (4, 1, 4, 4)


def test_preference_values():
    zero, far = [torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 1, 1)], [torch.full((2, 1, 3, 3), 50.0)]
    assert preference(zero, zero).item() == pytest.approx(math.log(2))
    assert preference(far, zero[:1]).item() == pytest.approx(0, abs=1e-6)
    assert preference(zero[:1], far).item() == pytest.approx(50)


def test_preference_ignores_a_shift_of_both():
    torch.manual_seed(0)
    better, worse = [torch.randn(2, 1, 3, 3)], [torch.randn(2, 1, 3, 3)]
    torch.testing.assert_close(preference([better[0] + 3], [worse[0] + 3]), preference(better, worse))

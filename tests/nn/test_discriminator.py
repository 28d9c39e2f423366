"""Discriminators: pictures of a batch are judged apart, losses at their known values."""

import pytest
import torch

from digit.nn.discriminator import MapDiscriminator, PatchDiscriminator, hinge, mean_logit


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


def test_hinge_values():
    zero, two = [torch.zeros(2, 1, 3, 3)], [torch.full((2, 1, 3, 3), 2.0)]
    assert float(hinge(zero, zero)) == 2
    assert float(hinge(two, [-two[0]])) == 0
    assert float(mean_logit([zero[0], two[0]])) == pytest.approx(1)

"""Perceptual maps: frozen, differentiable towards the pixels, zero distance to themselves."""

import pytest
import torch

from digit.nn.perceptual import PerceptualNetwork, distance, unit_maps

NETWORKS = {
    "vit_tiny_patch16_224": {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "resnet18": {},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_convolutions_and_transformers(name):
    torch.manual_seed(0)
    network = PerceptualNetwork(name, size=16, indices=(0, 2), arguments=NETWORKS[name]).train()
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    pixels = torch.rand(2, 3, 8, 8, requires_grad=True)
    maps = unit_maps(network(pixels))
    assert len(maps) == 2 and all(each.ndim == 4 for each in maps)
    assert distance(maps, maps).item() == 0
    distance(maps, unit_maps(network(torch.rand(2, 3, 8, 8)))).backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0


def test_distance_is_between_zero_and_four():
    a = unit_maps([torch.randn(2, 8, 3, 3), torch.randn(2, 4, 1, 1)])
    assert float(distance(a, [-each for each in a])) == pytest.approx(4)

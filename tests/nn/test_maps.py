"""digit.nn.maps: which map of a network is read, and what is no map."""

import time

import pytest
import torch
from torch import nn

from digit.errors import DigitError
from digit.nn.backbone import create
from digit.nn.maps import cut


def test_a_map_of_any_stage_is_the_same_before_and_after_the_cut():
    pixels = torch.rand(2, 3, 64, 64)
    for index in (0, 2):
        torch.manual_seed(1)
        network = create("test_resnet", num_classes=0).eval()
        with torch.no_grad():
            whole = network.forward_intermediates(pixels, intermediates_only=True)[index]
            maps = cut(network, index, norm=False, size=64, most=64, name="test_resnet")
            assert torch.equal(maps.read(network, pixels), whole.flatten(2).mT)
        assert (maps.width, maps.grid) == (whole.shape[1], whole.shape[2])


def test_what_gives_no_maps_is_named():
    for network, words in ((nn.Identity(), "reads no inner maps of mine"),):
        with pytest.raises(DigitError, match=words):
            cut(network, 0, norm=False, size=64, most=64, name="mine")


def test_a_size_out_of_a_file_costs_nothing():
    """A network of 65,536 vectors would look at all pairs: minutes, and gigabytes."""
    network = create("eva02_tiny_patch14_224", num_classes=0, img_size=14 * 256).eval()
    begun = time.process_time()
    assert cut(network, 0, norm=False, size=14 * 256, most=256, name="eva").grid == 256
    assert time.process_time() - begun < 5

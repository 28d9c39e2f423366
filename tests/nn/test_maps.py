"""digit.nn.maps: which map of a network is read, and what is no map."""

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

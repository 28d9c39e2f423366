"""How a pipeline decodes: by the VQGAN as it is now, in batches of its own; made anew for each call."""

import numpy as np
import pytest
import torch

import digit.pipeline
from digit.errors import DigitError
from digit.pipeline import DigitPipeline, to_uint8
from digit.prior import Prior, PriorConfig
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig


def test_pictures_are_what_the_vqgan_decodes_and_follow_its_weights(monkeypatch):
    made = []

    def noted(vqgan):
        made.append(vqgan)
        return vqgan.decode

    monkeypatch.setattr(digit.pipeline, "decoding", noted)
    torch.manual_seed(0)
    shape = {"image_size": 8, "width": 8, "multipliers": (1, 2), "blocks": 1, "code_dim": 4}
    vqgan = VQGAN(VQGANConfig(codes=12, **shape))
    pipeline = DigitPipeline(Prior(PriorConfig(12, vqgan.length, width=8, layers=1, heads=2)), vqgan)
    first = pipeline(seeds=range(70), batch_size=66)  # more than are decoded at once
    codes = first.vq_codes.split([64, 2, 4])
    with torch.no_grad():
        assert torch.equal(first.pixels, torch.cat([to_uint8(vqgan.decode(part)) for part in codes]))
    assert first.pixels.is_contiguous(memory_format=torch.channels_last)  # as pictures need them
    shown = torch.stack([torch.from_numpy(np.array(image)) for image in first.images])
    assert torch.equal(shown.permute(0, 3, 1, 2), first.pixels) and first.images is first.images
    assert len(made) == 1
    with torch.no_grad():
        vqgan.decoder.conv_out.bias += 0.2
    brighter = pipeline(seeds=range(70))
    assert torch.equal(brighter.vq_codes, first.vq_codes)
    assert len(made) == 2 and (brighter.pixels.float() - first.pixels.float()).mean() > 30
    pipeline(seeds=[0], autocast=False)
    assert len(made) == 2  # exact on request, by the module on every device


def test_a_cache_of_8_bits_is_asked_of_the_sampler():
    shape = VQGANConfig(image_size=8, width=8, multipliers=(1, 2), blocks=1, codes=12, code_dim=4)
    vqgan = VQGAN(shape)
    pipeline = DigitPipeline(Prior(PriorConfig(12, vqgan.length, width=8, layers=1, heads=2)), vqgan)
    with pytest.raises(DigitError, match="needs a GPU"):
        pipeline(cache_bits=8)

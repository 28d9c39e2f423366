"""What settings ask for is known before it is made: the same names and shapes, in little time and memory."""

import time

import pytest
import torch

from digit.errors import DigitError
from digit.features import EncoderConfig
from digit.nn.classifier import ClassifierConfig
from digit.nn.linear_probe import ProbeConfig
from digit.prior import PriorConfig
from digit.renderer import RendererConfig
from digit.renderer_flow import FlowConfig
from digit.renderer_masked import MaskedConfig
from digit.tokenizer import TokenizerConfig
from digit.vqgan_config import VQGANConfig
from digit.weights.artifact import KINDS
from digit.weights.outline import cut, outline

VIT = {"patch_size": 4, "embed_dim": 16, "num_heads": 2}
TIMM, ROTARY = "vit_tiny_patch16_224", "vit_small_patch16_dinov3"
CODES = {"codes": 8, "length": 4, "width": 8, "heads": 2}
RENDERER = CODES | {"vq_codes": 6, "vq_length": 4}
SMALL = {"image_size": 16, "width": 4, "codes": 8, "code_dim": 4}
TAMING = SMALL | {"family": "taming", "shortcut": "input", "latent_channels": 6, "attention": True}


def vit(name: str = TIMM, **how: object) -> EncoderConfig:
    return EncoderConfig(name, 16, **{"arguments": VIT | {"depth": 5}, **how})


SETTINGS = {
    "encoder": [
        *(vit(block=block) for block in (-5, -3, -1, 0, 1, 4)),
        vit(arguments=VIT | {"depth": 1}, block=0),
        vit(norm=False),
        vit("vit_small_patch14_dinov2", arguments=VIT | {"depth": 3, "reg_tokens": 2}),
        vit(ROTARY, arguments=VIT | {"depth": 4}),
        EncoderConfig(TIMM, 16, arguments=VIT, block=2),
    ],
    "tokenizer": [TokenizerConfig(vit(), 7), TokenizerConfig(vit(ROTARY), 7, distance="stored")],
    "prior": [
        PriorConfig(**CODES, layers=n, **how)
        for n in (1, 2, 5)
        for how in ({}, {"norm": "pre"}, {"tied": True})
    ],
    "renderer": [RendererConfig(**RENDERER, layers=n, specials=5) for n in (1, 3)],
    "renderer_masked": [MaskedConfig(**RENDERER, layers=n) for n in (1, 4)],
    "renderer_flow": [
        FlowConfig(codes=8, length=4, image_size=16, width=8, heads=2, layers=n) for n in (1, 3)
    ],
    "classifier": [ClassifierConfig(classes=3, width=4)],
    "probe": [ProbeConfig(width=5, classes=3, layers=7)],
    "vqgan": [
        *(
            VQGANConfig(**SMALL, multipliers=(1, 2, 2), blocks=n, decoder_blocks=d)
            for n in (1, 2, 4)
            for d in (None, 1, 2, 5)
        ),
        *(VQGANConfig(**TAMING, multipliers=(1, 2), blocks=n, attention_levels=(1,)) for n in (1, 2, 3)),
    ],
}


def test_every_kind_is_tried():
    assert SETTINGS.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("kind", "config"), [(kind, each) for kind, many in SETTINGS.items() for each in many]
)
def test_it_is_what_the_module_has(kind, config):
    module = KINDS[kind][0](config)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert outline(KINDS[kind][0], config, where="here") == expected
    whole = cut(config, where="here")
    fewer = KINDS[kind][0](whole).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in fewer.items()} == expected
    if kind in ("encoder", "tokenizer"):
        blocks = len({name for name in expected if name.endswith("norm1.weight")})
        again = cut(config, where="here", depth=blocks)
        assert outline(KINDS[kind][0], again, where="here") == expected


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("prior", PriorConfig(**CODES, layers=1024)),
        ("prior", PriorConfig(codes=2**24, length=2**24, width=2**16, layers=1024)),
        ("renderer_masked", MaskedConfig(**RENDERER, layers=1024)),
        ("encoder", vit(arguments=VIT | {"depth": 1024})),
        ("encoder", vit(arguments=VIT | {"depth": 3, "embed_dim": 2**14})),
        ("vqgan", VQGANConfig(image_size=2**14, multipliers=(1,) * 15, blocks=1024, width=8)),
        ("vqgan", VQGANConfig(image_size=2**14, multipliers=(1024,) * 15, blocks=2, width=2**16)),
        ("probe", ProbeConfig(width=2**16, classes=2**16, layers=2**16)),
        ("classifier", ClassifierConfig(classes=2**24, width=2**16)),
    ],
)
def test_what_asks_for_much_is_told_at_once(kind, config):
    """As long as the machine is not busy otherwise, within a second; memory is not taken at all."""
    outline(KINDS[kind][0], SETTINGS[kind][0], where="here")  # imports what it needs
    begun = time.process_time()
    assert outline(KINDS[kind][0], config, where="here")
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "config",
    [
        *(vit(arguments=VIT | {"depth": depth}) for depth in (0, -1, 1025, 2**40, "9", None, 2.5, [3], True)),
        vit(block=5),
        vit(block=-6),
        vit(arguments=VIT | {"embed_dim": 2**25}),
        vit(arguments=VIT | {"mlp_ratio": [[2**30]]}),
        vit(arguments=VIT | {"checkpoint_path": "/etc/passwd"}),
        vit(arguments=VIT | {"img_size": 2**20}),
        vit(ROTARY, arguments=VIT | {"img_size": 2**20, "depth": 1}),
        vit(ROTARY, arguments=VIT | {"patch_size": [1, 1], "img_size": [2**14, 2**14]}),
        vit(mean=(1e30, 0.0, 0.0)),
    ],
)
def test_what_no_network_has_is_refused(config):
    begun = time.process_time()
    for kind, settings in (("encoder", config), ("tokenizer", TokenizerConfig(config, 7))):
        with pytest.raises(DigitError):
            outline(KINDS[kind][0], settings, where="here")
    assert time.process_time() - begun < 2


def test_random_numbers_go_on_as_if_nothing_had_happened():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    outline(KINDS["prior"][0], PriorConfig(**CODES), where="here")
    assert torch.equal(before, torch.get_rng_state())

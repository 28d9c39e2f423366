"""Which stages leave parameters without a gradient: DDP waits for every one unless it is told."""

from dataclasses import replace

import pytest
import torch

from digit.nn.batch import CodeBatch, PixelBatch
from digit.nn.linear_probe import FeatureBatch, Probe, ProbeConfig
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig, VQGANLossConfig
from digit.vqgan_loss import VQGANLoss

PRIOR = PriorConfig(codes=10, length=6, width=16, layers=2, heads=2)
RENDERER = {"codes": 10, "length": 6, "vq_codes": 12, "vq_length": 4, "width": 16, "layers": 2, "heads": 2}
CODES = CodeBatch(
    torch.randint(10, (3, 6)), labels=torch.tensor([0, 1, 2]), vq_codes=torch.randint(12, (3, 4))
)
STAGES = {
    "prior": Prior(PRIOR),
    "prior by class": Prior(replace(PRIOR, classes=3, norm="pre")),
    "prior, tied": Prior(replace(PRIOR, tied=True)),
    "prior, imported": Prior(replace(PRIOR, specials=5)),
    "renderer": Renderer(RendererConfig(**RENDERER)),
    "renderer, imported": Renderer(RendererConfig(**RENDERER, specials=5)),
    "masked renderer": MaskedRenderer(MaskedConfig(**RENDERER)),
    "probe": Probe(ProbeConfig(8, 3, layers=2)),
}


def without(stage, batch):
    """Names of trainable parameters that the loss gives no gradient."""
    stage.zero_grad(set_to_none=True)
    stage.train().loss(batch).backward()
    return [name for name, each in stage.named_parameters() if each.requires_grad and each.grad is None]


@pytest.mark.parametrize("name", STAGES)
def test_all_parameters_get_a_gradient(name):
    batch = FeatureBatch(torch.rand(3, 2, 8), CODES.labels) if name == "probe" else CODES
    assert not without(STAGES[name], batch) and not getattr(STAGES[name], "partial_gradients", False)


@pytest.mark.parametrize(
    ("codebook", "continuous", "start", "weight", "expected"),
    [
        ("ema", 1, 4, 0.5, [True, True, False]),
        ("gradient", 1, 0, 0.0, [True, False, False]),
        ("gradient", 0, 0, 0.5, [False, False, False]),
    ],
)
def test_a_vqgan_says_when_some_get_none(codebook, continuous, start, weight, expected):
    shape = VQGANConfig(image_size=8, width=8, multipliers=(1, 2), blocks=1, codes=8, code_dim=4)
    losses = VQGANLossConfig(adversarial_start=start, discriminator_ahead=2, adversarial_weight=weight)
    losses = replace(losses, continuous_steps=continuous, discriminator_width=8)
    stage = VQGANLoss(VQGAN(replace(shape, codebook=codebook)), losses)
    told, found = [], []
    for _ in expected:
        told.append(stage.partial_gradients)
        found.append(bool(without(stage, PixelBatch(torch.rand(2, 3, 8, 8), None))))
    assert told == found == expected

"""The forms for inference with their kernels: tokenizer and VQGAN against the modules."""

import pytest
import torch

from digit.features import EncoderConfig
from digit.nn import autoencoder_inference, vit
from digit.nn import nearest as nearest_module
from digit.tokenizer import InferenceTokenizer, Tokenizer, TokenizerConfig
from digit.vqgan import VQGAN, InferenceVQGAN
from digit.vqgan_config import VQGANConfig

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy of the interpreter


@pytest.fixture
def device(monkeypatch):
    if not torch.cuda.is_available():
        for module in (autoencoder_inference, vit, nearest_module):
            monkeypatch.setattr(module, "has_kernels", lambda device, width: width % 8 == 0)
    torch.manual_seed(0)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_tokenizer(device):
    arguments = {"patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 3}
    tokenizer = Tokenizer(TokenizerConfig(EncoderConfig("vit_tiny_patch16_224", 12, arguments=arguments), 6))
    tokenizer.to(device)
    pixels = torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8, device=device)
    features = tokenizer.features(pixels / 255)
    tokenizer.centroids.copy_(features.flatten(0, 1)[::3] + 0.1)
    form = InferenceTokenizer(tokenizer)
    assert (form.features(pixels).float() - features).norm() / features.norm() < 3e-3
    assert (form.encode(pixels) == tokenizer.encode(pixels / 255)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("changes", "tail"),
    [
        ({}, None),
        ({}, 1),
        ({"shortcut": "input", "blocks": 2, "multipliers": (1, 2)}, 1),
        ({"family": "taming", "shortcut": "input"}, None),
    ],
)
def test_vqgan(device, changes, tail):
    settings = {
        "image_size": 8,
        "width": 16,
        "multipliers": (1, 2, 2),
        "blocks": 1,
        "codes": 12,
        "code_dim": 4,
    }
    vqgan = VQGAN(VQGANConfig(**(settings | changes))).eval().to(device)
    with torch.no_grad():
        for parameter in vqgan.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        codes = torch.randint(12, (2, vqgan.length), device=device)
        expected = vqgan.decode(codes)
        latents = vqgan.latents(expected)
    form = InferenceVQGAN(vqgan, dtype=torch.float16, tail=tail)
    assert (form.decode(codes, kind=torch.float32) - expected).abs().max() < 0.02
    assert ((expected * 255).round() - form.decode(codes).float()).abs().mean() < 1
    assert (form.latents(expected) - latents).norm() / latents.norm() < 0.01

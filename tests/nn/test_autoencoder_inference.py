"""The VQGAN's form for inference: equal to the modules it was made from, in every family and style."""

import pytest
import torch
from torch import nn

from digit.nn.autoencoder_inference import InferenceDecoder, InferenceEncoder
from digit.vqgan import VQGAN, InferenceVQGAN, by_form, decoding
from digit.vqgan_config import VQGANConfig

TAMING = {"family": "taming", "shortcut": "input", "attention": True, "decoder_blocks": 3, "blocks": 2}
KINDS = [
    {},
    {"blocks": 2, "multipliers": (1, 2, 2)},
    {"shortcut": "input", "attention_levels": (0,), "multipliers": (1, 2, 4)},
    {"multipliers": (2,), "attention": True},
    {"normalized_codes": True},
    TAMING,
    TAMING | {"latent_channels": 6, "attention_levels": (0, 1)},
]


def vqgan(**changes: object) -> VQGAN:
    settings = {"image_size": 16, "width": 16, "multipliers": (1, 2), "blocks": 1, "codes": 12, "code_dim": 4}
    torch.manual_seed(0)
    made = VQGAN(VQGANConfig(**(settings | changes))).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        nn.init.normal_(made.quantize.embedding.weight)
    return made


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize(("fold", "tail"), [(True, None), (False, 2)])
def test_pixels_are_the_modules(changes, fold, tail):
    made = vqgan(**changes)
    codes = torch.randint(12, (3, made.length))
    with torch.no_grad():
        expected = made.decode(codes)
    form = InferenceVQGAN(made, dtype=torch.float32, fold=fold, tail=tail)
    torch.testing.assert_close(form.decode(codes, kind=torch.float32), expected, rtol=1e-4, atol=1e-4)
    bytes_ = form.decode(codes)
    assert bytes_.dtype == torch.uint8
    assert ((expected * 255).round() - bytes_.float()).abs().max() <= 1


@pytest.mark.parametrize("changes", KINDS)
def test_codes_are_the_modules(changes):
    made = vqgan(**changes)
    pixels = torch.randint(256, (3, 3, 32, 16), dtype=torch.uint8)
    with torch.no_grad():
        latents, codes = made.latents(pixels / 255), made.encode(pixels / 255)
    form = InferenceVQGAN(made, dtype=torch.float32)
    torch.testing.assert_close(form.latents(pixels), latents, rtol=1e-4, atol=1e-4)
    assert torch.equal(form.encode(pixels), codes)
    assert torch.equal(form.encode(pixels / 255), codes)


def test_convolutions_are_left_to_cudnn(monkeypatch):
    """torch's context manager for its settings switches cuDNN off unless it is told not to."""
    seen, convolve = [], torch.nn.functional.conv2d

    def noted(*arguments, **options):
        seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark))
        return convolve(*arguments, **options)

    form = InferenceVQGAN(vqgan(), dtype=torch.float32)
    monkeypatch.setattr(torch.nn.functional, "conv2d", noted)
    before = torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    form.encode(torch.zeros(1, 3, 16, 16))
    form.decode(torch.zeros(1, 64, dtype=torch.int64))
    assert len(seen) > 10 and set(seen) == {(True, True)}
    assert before == (
        *(torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark),
        torch.backends.cudnn.allow_tf32,
    )


def test_batches_in_pieces_change_nothing():
    made = vqgan()
    form, pieces = (
        InferenceVQGAN(made, dtype=torch.float32),
        InferenceVQGAN(made, dtype=torch.float32, most=2),
    )
    codes = torch.randint(12, (5, made.length))
    pixels = form.decode(codes, kind=torch.float32)
    torch.testing.assert_close(pieces.decode(codes, kind=torch.float32), pixels, rtol=1e-4, atol=1e-5)
    assert torch.equal(pieces.encode(pixels), form.encode(pixels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    made = vqgan(multipliers=(1, 2, 2), blocks=2)
    latents = torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        expected = made.decode_latents(latents).clamp(0, 1)
        encoded = made.encoder(expected)
    found = InferenceDecoder(made.decoder, dtype=dtype)(latents, kind=torch.float32)
    assert (found - expected).abs().mean() < (0.02 if dtype == torch.bfloat16 else 0.003)
    again = InferenceEncoder(made.encoder, dtype=dtype)(expected)
    assert again.dtype == torch.float32
    assert (again - encoded).norm() / encoded.norm() < (0.05 if dtype == torch.bfloat16 else 0.006)


def test_pictures_that_overflow_half_precision_are_decoded_by_the_module():
    made = vqgan()
    codes = torch.randint(1, 12, (3, made.length))
    codes[1, 5] = 0
    with torch.no_grad():
        made.quantize.embedding.weight[0] = 1e6  # only the second picture has it
        expected = made.decode(codes)
        found = by_form(made)(codes)
        form = InferenceVQGAN(made, dtype=torch.float16).decode(codes, kind=torch.float32)
    assert not form[1].isfinite().all() and form[[0, 2]].isfinite().all()
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)  # of one picture instead of three
    assert torch.equal(found[[0, 2]], form[[0, 2]]) and not torch.equal(found[0], expected[0])
    assert (found - expected).abs().max() < 0.02
    assert decoding(made) == made.decode  # on a CPU nothing changes

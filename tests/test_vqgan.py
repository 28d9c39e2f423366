"""The VQGAN: shapes of the published networks, codes and pixels, safety under autocast, taming's training."""

import pytest
import torch
import torch.nn.functional as F
import vqgan_oracle
from torch import nn

from digit.errors import DigitError
from digit.nn.batch import PixelBatch
from digit.vqgan import VQGAN, decoding, decoding_in_half, encoding_in_half, vq_encoding
from digit.vqgan_config import VQGANConfig, VQGANLossConfig
from digit.vqgan_loss import VQGANLoss

TAMING = {"family": "taming", "shortcut": "input", "attention": True, "decoder_blocks": 3, "blocks": 2}


def small(**changes) -> VQGAN:
    settings = {"image_size": 16, "width": 8, "multipliers": (1, 2), "blocks": 1, "codes": 12, "code_dim": 4}
    torch.manual_seed(0)
    return VQGAN(VQGANConfig(**(settings | changes))).eval()


def test_default_is_the_official_network():
    with torch.device("meta"):
        vqgan = VQGAN(VQGANConfig())
    tensors = vqgan.state_dict()
    assert sum(tensor.numel() for tensor in tensors.values()) == 54_515_587
    assert len(tensors) == 168
    expected = vqgan_oracle.layout(128, (1, 1, 2, 2, 4), codes=1024, code_dim=256, taming=False)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
    assert vqgan.grid == 16 and vqgan.length == 256
    assert tensors["encoder.down.2.block.0.nin_shortcut.weight"].shape == (256, 256, 1, 1)
    assert tensors["decoder.up.1.block.0.nin_shortcut.weight"].shape == (128, 128, 1, 1)
    assert tensors["decoder.up.4.upsample.conv.weight"].shape == (512, 512, 3, 3)
    assert tensors["quantize.embedding.weight"].shape == (1024, 256)
    assert "decoder.up.0.upsample.conv.weight" not in tensors
    assert "encoder.conv_in.bias" not in tensors
    groups = {module.num_groups for module in vqgan.modules() if isinstance(module, nn.GroupNorm)}
    assert groups == {32}


def test_taming_of_16384_codes():
    """The names and shapes of vqgan_imagenet_f16_16384 without its discriminator: 343 tensors."""
    with torch.device("meta"):
        vqgan = VQGAN(VQGANConfig(codes=16384, attention_levels=(4,), **TAMING))
    shapes = {name: tuple(tensor.shape) for name, tensor in vqgan.state_dict().items()}
    assert shapes == vqgan_oracle.layout(
        128, (1, 1, 2, 2, 4), codes=16384, code_dim=256, taming=True, attention_levels=(4,)
    )
    assert len(shapes) == 343
    assert sum(tensor.numel() for tensor in vqgan.state_dict().values()) == 76_073_859


@pytest.mark.parametrize("normalized", [False, True])
def test_nearest_code_against_float64(normalized):
    vqgan = small(normalized_codes=normalized, codes=50)
    nn.init.normal_(vqgan.quantize.embedding.weight)
    latents = torch.randn(3, 4, 8, 8)
    codes, vectors = vqgan.quantize(latents)
    rows = latents.double().permute(0, 2, 3, 1).reshape(3, 64, 4)
    table = vqgan.quantize.embedding.weight.detach().double()
    if normalized:
        rows, table = F.normalize(rows, dim=-1), F.normalize(table, dim=-1)
    expected = torch.cdist(rows, table).argmin(-1)
    assert torch.equal(codes, expected)
    scale = 4**0.5 if normalized else 1
    torch.testing.assert_close(
        vectors.permute(0, 2, 3, 1).reshape(3, 64, 4).double(), table[expected] * scale, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": True, "decoder_blocks": 2},
        {"attention_levels": (0,), "shortcut": "input"},
        {"normalized_codes": True},
        TAMING,
        TAMING | {"latent_channels": 6, "attention_levels": (0, 1), "normalized_codes": True},
    ],
)
def test_codes_become_the_pixels_of_their_latents(changes):
    vqgan = small(**changes)
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        codes = vqgan.encode(pixels)
        assert codes.shape == (2, vqgan.length) and codes.dtype == torch.int64
        latents = vqgan.quantize(vqgan.latents(pixels))[1]
        out = vqgan.decode(codes)
        torch.testing.assert_close(out, vqgan.decode_latents(latents).clamp(0, 1))
    assert out.shape == pixels.shape and out.min() >= 0 and out.max() <= 1


def test_taming_sees_and_draws_pixels_from_minus_one_to_one():
    """Outside they are in [0, 1]: the mean of the two ends is grey."""
    vqgan = small(**TAMING)
    seen = []
    vqgan.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = torch.rand(1, 3, 16, 16)
    vqgan.encode(pixels)
    torch.testing.assert_close(seen[0], 2 * pixels - 1)
    nn.init.zeros_(vqgan.decoder.conv_out.weight)
    latents = torch.randn(1, 4, 8, 8)
    for value, level in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0), (3.0, 2.0)):
        nn.init.constant_(vqgan.decoder.conv_out.bias, value)
        assert vqgan.decode_latents(latents).unique().tolist() == [level]


@pytest.mark.parametrize("changes", [{}, TAMING])
def test_training_starts_at_grey(changes):
    vqgan = small(**changes)
    nn.init.zeros_(vqgan.decoder.conv_out.weight)
    assert vqgan.decode_latents(torch.randn(1, 4, 8, 8)).unique().tolist() == [0.5]


def test_taming_learns_in_a_step_of_both_sides():
    vqgan = small(**TAMING, latent_channels=6)
    stage = VQGANLoss(vqgan, VQGANLossConfig(discriminator_width=8, discriminator_ahead=0)).train()
    batch = PixelBatch(F.interpolate(torch.rand(4, 3, 4, 4), size=16, mode="bilinear"), None)
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = stage.loss(batch)
        loss.backward()
        losses.append(stage.metrics["l1"].item())
        for name, parameter in stage.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        optimizer.step()
    assert "adversarial_patches" in stage.metrics
    assert losses[-1] < losses[0]
    for part in (vqgan.quant_conv, vqgan.post_quant_conv, vqgan.encoder.down[0].downsample.conv):
        assert part.weight.grad.abs().sum() > 0


def test_codes_run_in_raster_order():
    vqgan = small()
    nn.init.normal_(vqgan.quantize.embedding.weight)
    latents = torch.randn(1, 4, 8, 8)
    codes = vqgan.quantize(latents)[0]
    assert codes[0, 8 * 3 + 5] == vqgan.quantize.nearest(latents[0, :, 3, 5])


@pytest.mark.parametrize("changes", [{}, TAMING])
def test_codes_under_autocast_use_float32_distances(changes):
    vqgan = small(codes=500, **changes)
    nn.init.normal_(vqgan.quantize.embedding.weight)
    latents = torch.randn(2, 4, 8, 8)
    exact = vqgan.quantize(latents)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vqgan.quantize(latents)[0], exact)
        latents = vqgan.latents(torch.rand(1, 3, 16, 16))
        pixels = vqgan.decode(vqgan.quantize(latents)[0])
    assert latents.dtype == pixels.dtype == torch.float32


KINDS = [
    {"blocks": 2, "multipliers": (1, 2, 2)},
    {"shortcut": "input", "attention_levels": (0,), "multipliers": (1, 2, 4)},
    {"normalized_codes": True, "attention": True},
    TAMING | {"latent_channels": 6, "attention_levels": (0, 1)},
]


def stirred(**changes) -> VQGAN:
    """A VQGAN in which every parameter matters, with codes that spread over its latents."""
    vqgan = small(width=16, **changes).requires_grad_(False)
    for parameter in vqgan.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    latents = vqgan.latents(torch.rand(4, 3, 16, 16)).movedim(1, -1).flatten(0, 2)
    vqgan.quantize.embedding.weight.copy_(latents[torch.randperm(len(latents))[:12]])
    return vqgan


def test_on_a_cpu_the_ways_for_many_pictures_are_the_module():
    vqgan, pixels = stirred(), torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    codes = vqgan.encode(pixels / 255)
    assert torch.equal(vq_encoding(vqgan)(pixels), codes) and torch.equal(
        vq_encoding(vqgan)(pixels / 255), codes
    )
    assert decoding(vqgan) == vqgan.decode


@pytest.mark.parametrize("changes", KINDS)
def test_half_precision_stays_close(changes):
    vqgan, pixels = stirred(**changes), torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    codes = vqgan.encode(pixels / 255)
    assert len(codes.unique()) > 4
    assert (encoding_in_half(vqgan)(pixels) == codes).float().mean() > 0.97
    expected, found = vqgan.decode(codes), decoding_in_half(vqgan)(codes)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    assert (found - expected).abs().mean() < 0.003


def test_the_last_convolution_of_half_encoding_is_float32_without_tf32(monkeypatch):
    """And cuDNN is on in all: torch's context manager for its settings switches it off unless told not to."""
    seen, convolve = [], F.conv2d

    def noted(x, *given, **how):
        seen.append((x.dtype, torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
        return convolve(x, *given, **how)

    vqgan, before = stirred(), torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(F, "conv2d", noted)
    encode = encoding_in_half(vqgan)
    encode(torch.rand(1, 3, 16, 16))
    assert len(seen) > 5 and seen[-1] == (torch.float32, True, False)
    assert set(seen[:-1]) == {(torch.float16, True, False)}
    assert torch.backends.cudnn.allow_tf32 == before


def test_pictures_that_overflow_half_precision_are_done_again():
    vqgan = stirred()
    codes = torch.randint(1, 12, (3, vqgan.length))
    codes[1, 5] = 0
    half = decoding_in_half(vqgan)(codes)
    vqgan.quantize.embedding.weight[0] = 1e6  # only the second picture has it
    expected, found = vqgan.decode(codes), decoding_in_half(vqgan)(codes)
    assert found.isfinite().all()
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)
    assert torch.equal(found[[0, 2]], half[[0, 2]])

    pixels = torch.rand(2, 3, 16, 16)
    vqgan.encoder.conv_in.weight.mul_(1e6)
    with torch.autocast("cpu", torch.bfloat16):
        expected = vqgan.encode(pixels)
    assert torch.equal(encoding_in_half(vqgan)(pixels), expected)


def test_encode_takes_any_multiple_of_the_downsampling():
    assert small().encode(torch.rand(1, 3, 24, 8)).shape == (1, 48)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: small(image_size=17), "image_size 17"),
        (lambda: small().encode(torch.rand(1, 3, 16, 15)), "15x16"),
        (lambda: small().decode(torch.zeros(1, 63, dtype=torch.int64)), "64 VQ codes"),
        (lambda: small(attention_levels=(0, 2)), "level 2: this VQGAN has levels 0 to 1"),
        (lambda: small(family="taming"), "set shortcut to input"),
        (lambda: small(latent_channels=5), "set family to taming"),
    ],
)
def test_wrong_sizes_are_refused(action, message):
    with pytest.raises(DigitError, match=message):
        action()

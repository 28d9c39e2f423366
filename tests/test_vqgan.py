"""The VQGAN: the official network's shape and quirks, codes and pixels, safety under autocast."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from digit.errors import DigitError
from digit.vqgan import VQGAN, VQGANConfig


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
    assert vqgan.grid == 16 and vqgan.length == 256
    assert tensors["encoder.down.2.block.0.nin_shortcut.weight"].shape == (256, 256, 1, 1)
    assert tensors["decoder.up.1.block.0.nin_shortcut.weight"].shape == (128, 128, 1, 1)
    assert tensors["decoder.up.4.upsample.conv.weight"].shape == (512, 512, 3, 3)
    assert tensors["quantize.embedding.weight"].shape == (1024, 256)
    assert "decoder.up.0.upsample.conv.weight" not in tensors
    assert "encoder.conv_in.bias" not in tensors
    groups = {module.num_groups for module in vqgan.modules() if isinstance(module, nn.GroupNorm)}
    assert groups == {32}


def test_branch_shortcut_drops_the_input_where_channels_change():
    block = small().encoder.down[1].block[0]
    x = torch.randn(2, 8, 4, 4)
    h = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
    torch.testing.assert_close(block(x), h + block.nin_shortcut(h))


def test_input_shortcut_projects_the_input():
    block = small(shortcut="input").encoder.down[1].block[0]
    x = torch.randn(2, 8, 4, 4)
    h = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
    torch.testing.assert_close(block(x), block.nin_shortcut(x) + h)


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
    "changes", [{}, {"attention": True, "decoder_blocks": 2}, {"normalized_codes": True}]
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


def test_codes_run_in_raster_order():
    vqgan = small()
    nn.init.normal_(vqgan.quantize.embedding.weight)
    latents = torch.randn(1, 4, 8, 8)
    codes = vqgan.quantize(latents)[0]
    assert codes[0, 8 * 3 + 5] == vqgan.quantize.nearest(latents[0, :, 3, 5])


def test_codes_under_autocast_use_float32_distances():
    vqgan = small(codes=500)
    nn.init.normal_(vqgan.quantize.embedding.weight)
    latents = torch.randn(2, 4, 8, 8)
    exact = vqgan.quantize(latents)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vqgan.quantize(latents)[0], exact)
        pixels = vqgan.decode(vqgan.encode(torch.rand(1, 3, 16, 16)))
    assert pixels.dtype == torch.float32


def test_encode_takes_any_multiple_of_the_downsampling():
    assert small().encode(torch.rand(1, 3, 24, 8)).shape == (1, 48)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: small(image_size=17), "image_size 17"),
        (lambda: small().encode(torch.rand(1, 3, 16, 15)), "15x16"),
        (lambda: small().decode(torch.zeros(1, 63, dtype=torch.int64)), "64 VQ codes"),
    ],
)
def test_wrong_sizes_are_refused(action, message):
    with pytest.raises(DigitError, match=message):
        action()

"""digit.features: which block is read, what is dropped, how pictures and positions are resized, weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import digit
from digit import features
from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig, encoder_config, in_half, reading, resize_positions
from digit.nn.backbone import licence_of, timm

SMALL = {"patch_size": 4, "embed_dim": 24, "depth": 5, "num_heads": 3}
TINY = EncoderConfig("vit_tiny_patch16_224", 16, arguments=SMALL)
# The architecture of DINOv2 with registers, small: positions of 37 x 37 patches of 14 pixels.
REGISTERS = {"embed_dim": 24, "depth": 4, "num_heads": 3}


def vit(name: str = "vit_tiny_patch16_224", **arguments: object) -> torch.nn.Module:
    torch.manual_seed(0)
    network = timm().create_model(name, num_classes=0, **arguments).eval()
    with torch.no_grad():  # every parameter matters: timm starts biases at zero and norms at one
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def stored(network: torch.nn.Module, path: Path) -> Path:
    save_file(network.state_dict(), path)
    return path


@pytest.mark.parametrize("norm", [True, False])
def test_it_reads_the_third_block_from_the_end(tmp_path, norm):
    whole = vit(img_size=16, **SMALL)
    seen = {}
    whole.blocks[2].register_forward_hook(lambda _module, _inputs, output: seen.update(output=output))
    pixels = torch.rand(3, 3, 16, 16)
    config = EncoderConfig("vit_tiny_patch16_224", 16, norm=norm, arguments=SMALL)
    encoder = Encoder(config, stored(whole, tmp_path / "vit.safetensors"))
    mean, std = torch.tensor(config.mean)[:, None, None], torch.tensor(config.std)[:, None, None]
    with torch.no_grad():
        whole((pixels - mean) / std)
        expected = whole.norm(seen["output"]) if norm else seen["output"]
    torch.testing.assert_close(encoder(pixels), expected[:, 1:], rtol=1e-5, atol=1e-5)
    assert (encoder.grid, encoder.tokens, encoder.width) == (4, 16, 24)


def test_later_blocks_neither_run_nor_are_stored():
    encoder = Encoder(TINY)
    assert len(encoder.vit.blocks) == 3
    keys = encoder.state_dict().keys()
    assert not any(key.startswith(("vit.blocks.3", "vit.blocks.4", "vit.head")) for key in keys)
    assert "vit.norm.weight" in keys
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.train().vit.blocks[0].training


def test_other_sizes_are_resized_bicubically_without_antialiasing():
    encoder = Encoder(TINY)
    pixels = torch.rand(2, 3, 32, 32)
    resized = F.interpolate(pixels, size=(16, 16), mode="bicubic", antialias=False, align_corners=False)
    torch.testing.assert_close(encoder(pixels), encoder(resized), rtol=1e-4, atol=1e-4)
    with pytest.raises(DigitError, match="32 x 16"):
        encoder(torch.rand(1, 3, 32, 16))


def test_reading_on_a_cpu_is_the_module():
    encoder, pixels = Encoder(TINY), torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    expected = encoder(pixels / 255)
    assert torch.equal(reading(encoder)(pixels), expected)
    assert torch.equal(reading(encoder)(pixels / 255), expected)


@pytest.mark.parametrize("overflows", [False, True])
def test_half_precision_is_float16_until_that_overflows(overflows):
    """Rounding to 11 bits, or to the 8 of bfloat16, shows in the features' distance from float32's."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(TINY.name, 16, norm=False, arguments=SMALL))
    with torch.no_grad():
        if overflows:
            encoder.vit.blocks[0].mlp.fc2.bias.fill_(1e5)
        pixels = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
        exact, found = encoder(pixels / 255), in_half(encoder, pixels)
    error = float((found - exact).norm() / exact.norm())
    assert found.isfinite().all()
    assert 1e-3 < error < 0.02 if overflows else 1e-5 < error < 1e-3


@pytest.mark.parametrize("size", [16, 64, 256])
def test_operations_are_those_that_torch_counts(size):
    encoder = Encoder(EncoderConfig(TINY.name, size, arguments=SMALL))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        encoder(torch.rand(1, 3, size, size))
    embedding = 2 * encoder.tokens * encoder.vit.patch_embed.proj.weight.numel()
    assert encoder.flops == counted.get_total_flops() - embedding


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig("vit_base_patch14_reg4_dinov2", 14 * 257),
        EncoderConfig("vit_base_patch16_dinov3", 16384),
        EncoderConfig(TINY.name, 4 * 257, arguments=SMALL),
    ],
)
def test_more_patches_than_can_be_meant_are_refused_before_anything_is_built(config, monkeypatch):
    monkeypatch.setattr(features, "create", None)
    with pytest.raises(DigitError, match=r"reads [\d,]+ patches, .* give an encoder_size of at most"):
        Encoder(config)


def test_gradients_reach_the_pixels():
    pixels = torch.rand(1, 3, 16, 16, requires_grad=True)
    Encoder(TINY)(pixels).sum().backward()
    assert pixels.grad is not None


def test_official_dinov2_names_load(tmp_path):
    """DINOv2's own files have a mask token and, with registers, positions that count the class token."""
    small = timm().create_model("vit_base_patch14_reg4_dinov2", num_classes=0, **REGISTERS).state_dict()
    official = {key: torch.randn_like(value) * 0.1 for key, value in small.items()}
    official["register_tokens"] = official.pop("reg_token")
    official["pos_embed"] = torch.randn(1, 1370, 24)
    official["mask_token"] = torch.zeros(1, 24)
    path = tmp_path / "official.safetensors"
    save_file({key: value.half() for key, value in official.items()}, path)
    config = encoder_config("dinov2-b-reg", 28, arguments=REGISTERS)
    encoder = Encoder(config, path)
    assert encoder.tokens == 4
    torch.testing.assert_close(encoder.vit.reg_token, official["register_tokens"], atol=1e-3, rtol=1e-3)
    expected = (official["cls_token"] + official["pos_embed"][:, :1]).half().float()
    torch.testing.assert_close(encoder.vit.cls_token, expected, atol=1e-2, rtol=1e-2)
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, 4, 24)


@pytest.mark.parametrize("name", ["vit_base_patch14_reg4_dinov2", "vit_base_patch14_dinov2"])
def test_reference_rule_steps_by_37_over_16_1(tmp_path, name):
    whole = vit(name, img_size=518, **REGISTERS)
    path = stored(whole, tmp_path / "vit.safetensors")
    config = EncoderConfig(name, 224, arguments=REGISTERS, position_rule="reference")
    prefix = 0 if whole.no_embed_class else 1
    table = whole.pos_embed[0, prefix:].unflatten(0, (37, 37)).permute(2, 0, 1).double()
    got = Encoder(config, path).vit.pos_embed[0]
    assert torch.equal(got[:prefix], whole.pos_embed[0, :prefix])
    # The rule by hand, in float64: cubic convolution (A = -0.75) at (i + 1/2) 37 / 16.1 - 1/2, clamped.
    source = (torch.arange(16).double() + 0.5) * 37 / 16.1 - 0.5
    floor = source.floor()
    offsets = torch.arange(-1, 3)
    distance = (source[:, None] - floor[:, None] - offsets).abs()
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
    weights = torch.where(distance <= 1, near, far)
    matrix = torch.zeros(16, 37, dtype=torch.float64)
    matrix.scatter_add_(1, (floor[:, None] + offsets).long().clamp(0, 36), weights)
    expected = torch.einsum("iy,jx,dyx->ijd", matrix, matrix, table).flatten(0, 1).float()
    torch.testing.assert_close(got[prefix:], expected, rtol=1e-4, atol=1e-5)
    other = Encoder(EncoderConfig(name, 224, arguments=REGISTERS), path).vit.pos_embed[0]
    assert (other - got).abs().max() > 1e-3


@pytest.mark.parametrize("rule", ["timm", "reference"])
def test_both_rules_keep_constants_and_tables_that_fit(rule):
    table = torch.randn(1, 25, 3)
    assert torch.equal(resize_positions(table, (5, 5), (5, 5), rule), table)
    constant = resize_positions(torch.full((1, 25, 3), 0.5), (5, 5), (3, 4), rule)
    torch.testing.assert_close(constant, torch.full((1, 12, 3), 0.5))
    half = resize_positions(table.half(), (5, 5), (3, 3), rule)
    assert half.dtype == torch.float32
    timm_own = timm().layers.resample_abs_pos_embed(table, [3, 3], [5, 5], num_prefix_tokens=0)
    assert torch.equal(resize_positions(table, (5, 5), (3, 3), rule), timm_own) == (rule == "timm")


def test_the_state_dict_refills_an_encoder_without_the_file(tmp_path):
    config = EncoderConfig("vit_base_patch14_dinov2", 56, arguments=REGISTERS, position_rule="reference")
    whole = vit("vit_base_patch14_dinov2", img_size=518, **REGISTERS)
    one = Encoder(config, stored(whole, tmp_path / "vit.safetensors"))
    other = Encoder(config)
    other.load_state_dict(one.state_dict())
    pixels = torch.rand(1, 3, 56, 56)
    assert torch.equal(one(pixels), other(pixels))


def test_short_names_and_timm_names():
    base = encoder_config("dinov2-b-reg")
    assert (base.name, base.image_size, base.block, base.norm) == (
        "vit_base_patch14_reg4_dinov2",
        224,
        -3,
        True,
    )
    assert encoder_config("mae-b").name == "vit_base_patch16_224.mae"
    assert not encoder_config("ibot-b").hosted
    other = encoder_config("vit_tiny_patch16_224", block=-1, arguments=SMALL)
    assert (other.image_size, other.mean, other.block) == (224, (0.5, 0.5, 0.5), -1)
    for name in ("dinov2-s", "dinov2-b", "dinov2-l", "dinov2-s-reg", "dinov2-l-reg", "mocov3-b"):
        assert timm().is_model(encoder_config(name, 112).name.split(".")[0])


def test_bad_choices_are_one_sentence(tmp_path):
    cases = {
        "has 5 blocks, none numbered -6": lambda: Encoder(
            encoder_config(TINY.name, 16, block=-6, arguments=SMALL)
        ),
        "no network named": lambda: Encoder(EncoderConfig("vit_tiny_patch16_223", 32)),
        "patches of 4 pixels, which 18": lambda: Encoder(encoder_config(TINY.name, 18, arguments=SMALL)),
        "not hosted by timm: pass encoder_weights": lambda: Encoder(
            encoder_config("ibot-b"), pretrained=True
        ),
        "knows no size": lambda: encoder_config("no-such-encoder"),
        "no setting 'depth'": lambda: encoder_config("dinov2-b", depth=3),
        "no file": lambda: Encoder(TINY, tmp_path / "absent.safetensors"),
    }
    for words, call in cases.items():
        with pytest.raises(DigitError, match=words):
            call()


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_efficientnet"])
def test_a_network_of_stages_is_read_at_one_and_cut_after_it(name, tmp_path):
    """timm's own maps of the whole network are the oracle; the artifact holds no later stage."""
    config = encoder_config(name, 64, block=-2)
    whole = vit(name)
    encoder = Encoder(config, stored(whole, tmp_path / "whole.safetensors"))
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor(config.mean)[:, None, None], torch.tensor(config.std)[:, None, None]
    with torch.no_grad():
        expected = whole.forward_intermediates((pixels - mean) / std, intermediates_only=True)[-2]
    torch.testing.assert_close(encoder(pixels), expected.flatten(2).mT, rtol=1e-5, atol=1e-5)
    assert (encoder.width, encoder.grid) == (expected.shape[1], expected.shape[2])
    assert encoder.tokens == encoder.grid**2
    assert len(encoder.vit.state_dict()) < len(whole.state_dict())
    assert encoder.flops > 10**5
    digit.save(encoder, tmp_path / "encoder")
    assert torch.equal(digit.load(tmp_path / "encoder")(pixels), encoder(pixels))


def test_maps_that_cannot_be_had_are_one_sentence():
    for words, call in {
        "has 4 maps, none numbered 4": lambda: Encoder(encoder_config("test_convnext", block=4)),
        "give an encoder_size of at most 1024": lambda: Encoder(
            encoder_config("test_convnext", 4096, block=0)
        ),
        "takes no arguments": lambda: Encoder(encoder_config("test_convnext", arguments={"depths": [9]})),
        "cannot be read at 224 pixels .*leave out the norm": lambda: Encoder(
            encoder_config("hiera_tiny_224")
        ),
    }.items():
        with pytest.raises(DigitError, match=words):
            call()


CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("short", "size", "scale"),
    [
        ("siglip2-b", 224, HALF),
        ("siglip2-l", 256, HALF),
        ("siglip2-so400m", 224, HALF),
        ("clip-b", 224, CLIP),
        ("clip-l", 224, CLIP),
    ],
)
def test_towers_of_texts_see_and_scale_pixels_as_they_learned(short, size, scale):
    config = encoder_config(short)
    assert (config.image_size, (config.mean, config.std)) == (size, scale)
    assert licence_of(config.name) == "apache-2.0"


@pytest.mark.parametrize("short", ["siglip2-b", "clip-b"])
@pytest.mark.parametrize("norm", [True, False])
def test_block_and_norm_of_a_tower_are_read_before_its_pool(short, norm, tmp_path):
    """Its file has the pool or the head, which the encoder is built without."""
    small: Any = {"embed_dim": 24, "depth": 4, "num_heads": 3}
    config = encoder_config(short, 32, arguments=small, norm=norm)
    torch.manual_seed(0)
    whole = timm().create_model(config.name.split(".")[0], img_size=32, **small).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    assert ("attn_pool.q.weight" in whole.state_dict()) == (short == "siglip2-b")
    encoder = Encoder(config, stored(whole, tmp_path / "tower.safetensors"))
    seen, pixels = {}, torch.rand(2, 3, 32, 32)
    whole.blocks[1].register_forward_hook(lambda _module, _inputs, output: seen.update(output=output))
    mean, std = (torch.tensor(each)[:, None, None] for each in (config.mean, config.std))
    with torch.no_grad():
        whole((pixels - mean) / std)
        expected = whole.norm(seen["output"]) if norm else seen["output"]
    torch.testing.assert_close(encoder(pixels), expected[:, -4:], rtol=1e-5, atol=1e-5)


def test_the_licence_is_said_of_what_is_fetched_and_kept(tmp_path, monkeypatch, capsys):
    small = vit("vit_base_patch16_clip_quickgelu_224", embed_dim=24, depth=3, num_heads=3, img_size=32)
    monkeypatch.setattr(timm(), "create_model", lambda *_, **__: small)
    encoder = Encoder(encoder_config("clip-b", 32), pretrained=True)
    assert "the licence that timm names is apache-2.0" in capsys.readouterr().err
    digit.save(encoder, tmp_path / "clip")
    assert json.loads((tmp_path / "clip" / "config.json").read_text())["extra"]["licence"] == "apache-2.0"
    assert "DINOv3 License" in str(licence_of("convnext_tiny.dinov3_lvd1689m"))
    assert licence_of("no such network") is None

"""VQGAN files of others: golden values of the reference, float64 oracles of both families, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import vqgan_oracle
from safetensors.torch import load_file
from torch import Tensor

import digit
from digit.errors import DigitError
from digit.vqgan_config import VQGANConfig
from digit.weights.vqgan_files import convert_vqgan, is_vqgan

FIXTURES = Path(__file__).parents[1] / "fixtures"
MASKGIT = {"taming": False, "codes": 20, "code_dim": 6}
TAMING = {"taming": True, "codes": 20, "code_dim": 6}


def file_of(multipliers: tuple[int, ...] = (1, 2), width: int = 32, **settings: Any) -> dict[str, Tensor]:
    return vqgan_oracle.draw(vqgan_oracle.layout(width, multipliers, **(MASKGIT | settings)))


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """The VQGAN inside a renderer's checkpoint, what the reference computed with it, and how exactly."""
    checkpoint = torch.load(FIXTURES / "stage2_ar.pt", weights_only=True)["model"]
    tensors = {
        name.removeprefix("vqgan."): each for name, each in checkpoint.items() if name.startswith("vqgan.")
    }
    manifest = json.loads((FIXTURES / "manifest.json").read_text())
    return tensors, load_file(FIXTURES / "vqgan.safetensors"), manifest["tolerances"]


@torch.no_grad()
def test_golden_values(golden):
    tensors, values, tolerances = golden
    vqgan = convert_vqgan(tensors, where="stage2_ar.pt")
    assert vqgan.config == VQGANConfig(width=32, codes=64, code_dim=32)
    pixels = values["image_u8"].float() / 255
    latents = vqgan.latents(pixels)
    torch.testing.assert_close(latents, values["prequant"], atol=tolerances["prequant"]["atol"], rtol=0)
    codes = vqgan.encode(pixels)
    assert torch.equal(codes, values["ids"])
    vectors = vqgan.quantize(latents)[1]
    drawn = vqgan.decode_latents(vectors)
    torch.testing.assert_close(drawn, values["recon"], atol=tolerances["recon"]["atol"], rtol=0)
    # The reference truncates where it saves; the pipeline rounds.
    saved = (255 * vqgan.decode(codes)).to(torch.uint8)
    steps = (saved.int() - values["recon_u8"].int()).abs()
    assert steps.max() <= tolerances["recon_u8"]["max_step"]
    assert (steps > 0).float().mean() <= tolerances["recon_u8"]["max_fraction"]


@torch.no_grad()
def test_golden_codes_of_two_pictures(golden):
    vqgan = convert_vqgan(golden[0], where="stage2_ar.pt")
    pixels = load_file(FIXTURES / "tokenizer.safetensors")["images_u8"].float() / 255
    assert torch.equal(vqgan.encode(pixels), load_file(FIXTURES / "end_to_end.safetensors")["vq_codes"])


@torch.no_grad()
@pytest.mark.parametrize(
    "tensors",
    [
        file_of((1, 1, 2)),
        file_of((2, 1)),
        file_of(taming=True),
        file_of((1, 2, 3), taming=True, latents=10, attention_levels=(0, 2)),
        file_of((2, 1), taming=True, latents=4, attention_levels=(1,)),
    ],
)
def test_both_families_against_float64(tensors):
    vqgan = convert_vqgan({"state_dict": tensors}, where="file", image_size=16)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    latents = vqgan_oracle.latents_of(tensors, pixels)
    torch.testing.assert_close(vqgan.latents(pixels).double(), latents, atol=2e-5, rtol=0)
    codes = vqgan.encode(pixels)
    assert torch.equal(codes, vqgan_oracle.codes_of(tensors, pixels)) and len(codes.unique()) > 3
    drawn = vqgan_oracle.pixels_of(tensors, codes, vqgan.grid)
    torch.testing.assert_close(vqgan.decode(codes).double(), drawn.clamp(0, 1), atol=2e-5, rtol=0)


@torch.no_grad()
def test_official_size_against_float64():
    shapes = vqgan_oracle.layout(128, (1, 1, 2, 2, 4), codes=1024, code_dim=256, taming=False)
    tensors = vqgan_oracle.draw(shapes)
    vqgan = convert_vqgan(tensors, where="vqgan_jax_strongaug.ckpt", image_size=64)
    assert vqgan.config == VQGANConfig(image_size=64)
    assert sum(parameter.numel() for parameter in vqgan.parameters()) == 54_515_587
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    latents = vqgan.latents(pixels)
    torch.testing.assert_close(latents.double(), vqgan_oracle.latents_of(tensors, pixels), atol=1e-4, rtol=0)
    codes = vqgan.quantize(latents)[0]
    drawn = vqgan_oracle.pixels_of(tensors, codes, 4)
    torch.testing.assert_close(vqgan.decode(codes).double(), drawn.clamp(0, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (file_of((1, 1, 4), width=64, codes=9), {"width": 64, "multipliers": (1, 1, 4), "codes": 9}),
        (
            file_of((1, 3), taming=True, latents=5, attention_levels=(0,)),
            {"family": "taming", "shortcut": "input", "attention": True, "decoder_blocks": 3}
            | {"multipliers": (1, 3), "latent_channels": 5, "attention_levels": (0,)},
        ),
    ],
)
def test_numbers_are_read_from_shapes(tensors, config):
    config = {"width": 32, "codes": 20, "code_dim": 6, "image_size": 32} | config
    assert convert_vqgan(tensors, where="file", image_size=32).config == VQGANConfig(**config)


def test_taming_without_middle_attention():
    """Latent diffusion trained some so."""
    tensors = {name: each for name, each in file_of(**TAMING).items() if ".attn_1." not in name}
    vqgan = convert_vqgan(tensors, where="file")
    assert not vqgan.config.attention and set(vqgan.state_dict()) == set(tensors)


@pytest.mark.parametrize(
    "wrap", [lambda tensors: tensors, lambda tensors: {"state_dict": tensors, "epoch": 3}]
)
@pytest.mark.parametrize("settings", [MASKGIT, TAMING])
def test_tensors_keep_names_and_values(wrap, settings):
    tensors = file_of(**settings)
    unneeded = {"loss.discriminator.main.0.weight": torch.ones(2), "loss.logvar": torch.tensor(0)}
    state = torch.get_rng_state()
    vqgan = convert_vqgan(wrap(tensors | unneeded), where="file")
    assert torch.equal(state, torch.get_rng_state()) and not vqgan.training
    converted = vqgan.state_dict()
    assert set(converted) == set(tensors)
    assert all(torch.equal(converted[name], each) for name, each in tensors.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype):
    tensors = {name: each.to(dtype) for name, each in file_of(**TAMING).items()}
    for name, each in convert_vqgan(tensors, where="file").state_dict().items():
        assert each.dtype == torch.float32 and torch.equal(each, tensors[name].float())


def test_tensors_that_share_a_storage_are_copied(golden, tmp_path):
    tensors = golden[0]
    assert len({each.untyped_storage().data_ptr() for each in tensors.values()}) < len(tensors)
    vqgan = convert_vqgan(tensors, where="stage2_ar.pt")
    pointers = [each.untyped_storage().data_ptr() for each in vqgan.state_dict().values()]
    assert len(set(pointers)) == len(pointers)
    before = {name: each.clone() for name, each in tensors.items()}
    with torch.no_grad():
        for parameter in vqgan.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], each) for name, each in tensors.items())


@torch.no_grad()
@pytest.mark.parametrize("settings", [MASKGIT, TAMING | {"latents": 10, "attention_levels": (1,)}])
def test_saved_and_loaded_again(settings, tmp_path):
    vqgan = convert_vqgan(file_of(**settings), where="file", image_size=16)
    digit.save(vqgan, tmp_path / "vqgan")
    loaded = digit.load(tmp_path / "vqgan")
    assert loaded.config == vqgan.config
    for name, each in vqgan.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], each)
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded.decode(loaded.encode(pixels)), vqgan.decode(vqgan.encode(pixels)))


@pytest.mark.parametrize("settings", [MASKGIT, TAMING])
@pytest.mark.parametrize("change", ["lost", "renamed", "wrong"])
def test_a_tensor_that_does_not_fit_is_named_alone(settings, change):
    """What the others agree on decides, so that no other is blamed: all of one block, all outside blocks."""
    tensors = file_of(**settings)
    for name, each in tensors.items():
        if ".mid." in name or (".block." in name and not name.startswith("encoder.down.0.block.0.")):
            continue
        changed = dict(tensors)
        if change == "wrong":
            shape = list(each.shape)
            shape[1 if "embedding" in name else 0] += 1  # any number of codes would be right
            changed[name] = torch.zeros(shape)
            told = f"of another shape: {name} {shape} for {list(each.shape)}"
        else:
            del changed[name]
            told = f"missing: {name}"
            if change == "renamed":
                changed[f"{name}s"] = each
                told += f"; unknown: {name}s"
        assert is_vqgan(changed)
        with pytest.raises(DigitError) as error:
            convert_vqgan(changed, where="some.ckpt")
        assert str(error.value).startswith("some.ckpt is not the file it seems to be")
        if change == "wrong" or "embedding" not in name:  # without a codebook its size is not known
            assert str(error.value).endswith(f"do not fit: {told}")


def test_what_does_not_fit_is_named_and_counted():
    tensors = file_of((1, 2, 3), **TAMING)
    lost = [name for name in tensors if name.startswith("decoder.up.1.") or "norm1" in name]
    for name in lost:
        del tensors[name]
    with pytest.raises(DigitError) as error:
        convert_vqgan(tensors | {"extra.a": torch.ones(1), "extra.b": torch.ones(1)}, where="file")
    assert "unknown: extra.a, extra.b" in str(error.value)
    named = [name for name in lost if name in str(error.value)]
    assert len(named) == 12 and f" and {len(lost) - 12} more;" in str(error.value)


def test_gumbel_is_refused():
    tensors = file_of(**TAMING)
    tensors["quantize.embed.weight"] = tensors.pop("quantize.embedding.weight")
    tensors |= {"quantize.proj.weight": torch.ones(20, 6, 1, 1), "quantize.proj.bias": torch.ones(20)}
    assert is_vqgan({"state_dict": tensors})
    with pytest.raises(DigitError, match=r"^gumbel\.ckpt is a VQGAN with a Gumbel quantiser"):
        convert_vqgan({"state_dict": tensors}, where="gumbel.ckpt")


def uneven() -> dict[str, Tensor]:
    tensors = file_of((1, 1), width=64)
    changed = [name for name in tensors if ".1.block." in name and name.endswith("norm2.weight")]
    return tensors | {name: torch.ones(96) for name in changed}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no encoder.down.0"),
        (None, "holds no encoder.down.0"),
        ({"encoder.down.0.block.0.conv1.bias": torch.ones(3)}, "holds no encoder.conv_in.weight"),
        (file_of() | {"encoder.conv_in.weight": torch.ones(32, 3, 3, 3).to(torch.int8)}, "whole numbers"),
        (
            file_of() | {"encoder.down.99999999.block.0.norm2.weight": torch.ones(1)},
            "unknown: encoder.down.9",
        ),
        (
            file_of() | {"encoder.conv_in.weight": torch.tensor(1.0)},
            r"conv_in.weight \[\] for \[32, 3, 3, 3\]",
        ),
        (uneven(), "level of 96 channels, which 64"),
        (file_of((1, 1, 1)), "image_size 30 is not a multiple of 4"),
    ],
)
def test_refusals(content, message):
    with pytest.raises(DigitError, match=message):
        convert_vqgan(content, where="file", image_size=30)


@pytest.mark.parametrize(
    "content",
    [
        None, [], torch.ones(3), {}, {"state_dict": {}}, {"state_dict": 3}, {3: torch.ones(1)},
        {"model": file_of()}, {"vqgan." + name: each for name, each in file_of().items()},
        {"blocks.0.attn.qkv.weight": torch.ones(3)}, {"encoder.down.0.block.0.conv1.weight": torch.ones(3)},
    ],
)  # fmt: skip
def test_other_contents_are_no_vqgan(content):
    assert not is_vqgan(content)

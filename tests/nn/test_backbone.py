"""timm networks from local files: strict, with sentences for what does not fit."""

from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import save_file

from digit.errors import DigitError
from digit.nn.backbone import Standardize, create, load_weights, timm

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}
VIT = "vit_tiny_patch16_224"


def test_round_trip(tmp_path):
    torch.manual_seed(0)
    network = create(VIT, **TINY)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    again = create(VIT, weights=tmp_path / "vit.safetensors", **TINY)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_head_in_the_file_is_left_out_where_the_network_has_none(tmp_path):
    with_head = create(VIT, **(TINY | {"num_classes": 5}))
    save_file(with_head.state_dict(), tmp_path / "vit.safetensors")
    load_weights(create(VIT, **TINY), tmp_path / "vit.safetensors", VIT)


def test_official_dinov2_names_and_positions(tmp_path):
    """Official files have a mask token and positions for another grid; both are timm's to convert."""
    arguments = TINY | {"patch_size": 14}
    tensors = create("vit_small_patch14_dinov2", **(arguments | {"img_size": 56})).state_dict()
    tensors["mask_token"] = torch.zeros(1, 16)
    save_file(tensors, tmp_path / "dino.safetensors")
    network = create(
        "vit_small_patch14_dinov2", weights=tmp_path / "dino.safetensors", **(arguments | {"img_size": 28})
    )
    assert network.pos_embed.shape == (1, 1 + 4, 16)
    assert torch.equal(network.state_dict()["blocks.1.attn.qkv.weight"], tensors["blocks.1.attn.qkv.weight"])


def test_tensors_that_do_not_fit_are_listed(tmp_path):
    network = create(VIT, **TINY)
    tensors = network.state_dict()
    tensors["extra"] = torch.zeros(1)
    tensors["norm.weight"] = torch.zeros(3)
    del tensors["norm.bias"]
    save_file(tensors, tmp_path / "vit.safetensors")
    with pytest.raises(DigitError) as caught:
        load_weights(network, tmp_path / "vit.safetensors", "the encoder")
    for part in ("the encoder", "missing norm.bias", "unexpected extra", "norm.weight is (3,), not (16,)"):
        assert part in str(caught.value)


def test_a_file_that_is_not_finite_is_named(tmp_path):
    tensors = create(VIT, **TINY).state_dict()
    tensors["blocks.1.attn.qkv.bias"][3] = torch.inf
    save_file(tensors, tmp_path / "vit.safetensors")
    with pytest.raises(
        DigitError, match=r"vit\.safetensors holds .* not finite, in blocks\.1\.attn\.qkv\.bias"
    ):
        load_weights(create(VIT, **TINY), tmp_path / "vit.safetensors", VIT)


@pytest.mark.parametrize(
    ("version", "old"), [("1.0.20", True), ("0.9.16", True), ("1.0.21", False), ("1.1.0.dev0", False)]
)
def test_a_timm_that_is_too_old_is_said(monkeypatch, version, old):
    monkeypatch.setattr(timm(), "__version__", version)
    with pytest.raises(DigitError, match=f"timm {version} is too old: install") if old else nullcontext():
        timm.__wrapped__()


def test_unknown_name_gets_close_names():
    with pytest.raises(DigitError, match="vit_tiny_patch16_224"):
        create("vit_tiny_patch16_225")


def test_unknown_argument():
    with pytest.raises(DigitError, match="does not take"):
        create(VIT, colour="red")


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "absent.safetensors", "broken.safetensors"])
def test_files_that_cannot_be_read(tmp_path, name):
    if name != "absent.safetensors":
        (tmp_path / name).write_bytes(b"not tensors")
    with pytest.raises(DigitError, match=name):
        load_weights(create(VIT, **TINY), tmp_path / name, VIT)


def test_standardize():
    pixels = torch.full((1, 3, 2, 2), 0.5)
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(Standardize()(pixels)[0, :, 0, 0], expected)
    assert not Standardize().state_dict()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("wrong", [{"patch_size": 0}, {"embed_dim": 0}, {"num_heads": 0}, {"img_size": 0}])
def test_arguments_that_make_no_network_are_a_sentence(wrong):
    with pytest.raises(DigitError, match="does not take these arguments"):
        create("vit_tiny_patch16_224", **wrong)

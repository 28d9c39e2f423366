"""digit.weights.dinov3: files under three kinds of names against a float64 oracle."""

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig, encoder_config
from digit.nn.backbone import timm
from digit.run.convert import convert
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.weights.artifact import describe, load, save
from digit.weights.dinov3 import _SIZES, convert_dinov3, is_dinov3
from digit.weights.vit import is_vit

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
D, DEPTH, HEADS, HIDDEN, PATCH = 32, 4, 2, 48, 4
HOW = {"where": "file", "image_size": 12, "heads": HEADS}


def metas(*, gated: bool = False) -> dict:
    """A tiny DINOv3 under Meta's names, with what its files hold beside the weights."""
    made = {"cls_token": (1, 1, D), "storage_tokens": (1, 4, D), "mask_token": (1, D)}
    made |= {"patch_embed.proj.weight": (D, 3, PATCH, PATCH), "patch_embed.proj.bias": (D,)}
    mlp = {"w1": (HIDDEN, D), "w2": (HIDDEN, D), "w3": (D, HIDDEN)}
    mlp = mlp if gated else {"fc1": (HIDDEN, D), "fc2": (D, HIDDEN)}
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            made[f"{block}.{name}"] = (D,)
        matrices = {"attn.qkv": (3 * D, D), "attn.proj": (D, D)}
        matrices |= {f"mlp.{name}": shape for name, shape in mlp.items()}
        for name, shape in matrices.items():
            made |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    made |= {"norm.weight": (D,), "norm.bias": (D,)}
    # Faint tokens: a wrong eps in the first norm changes everything after it.
    faint = ("token", "tokens", "proj.weight", "proj.bias")
    values = {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        * (1e-2 if name.endswith(faint) and "attn" not in name else 0.3)
        for seed, (name, shape) in enumerate(made.items())
    }
    for i in range(DEPTH):  # keys have a bias in the file, and a mask that takes it out
        mask = torch.ones(3 * D)
        mask[D : 2 * D] = 0
        values[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    periods = 100 ** (torch.arange(D // HEADS // 4) / (D // HEADS / 4))
    return values | {"rope_embed.periods": periods.to(torch.bfloat16)}


def transformers(w: dict) -> dict:
    """The same as transformers' DINOv3ViTModel names them: three matrices, no bias of keys."""
    gated = "blocks.0.mlp.w1.weight" in w
    made = {
        "embeddings.cls_token": w["cls_token"],
        "embeddings.mask_token": w["mask_token"][None],
        "embeddings.register_tokens": w["storage_tokens"],
        "embeddings.patch_embeddings.weight": w["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.bias": w["patch_embed.proj.bias"],
        "norm.weight": w["norm.weight"],
        "norm.bias": w["norm.bias"],
    }
    mlp = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"}
    mlp = mlp if gated else {"fc1": "up_proj", "fc2": "down_proj"}
    for i in range(DEPTH):
        old, new = f"blocks.{i}.", f"layer.{i}."
        for kind in ("weight", "bias"):
            for which, part in zip("qkv", w[f"{old}attn.qkv.{kind}"].chunk(3), strict=True):
                if (which, kind) != ("k", "bias"):
                    made[f"{new}attention.{which}_proj.{kind}"] = part.clone()
            made[f"{new}attention.o_proj.{kind}"] = w[f"{old}attn.proj.{kind}"]
            made |= {f"{new}{norm}.{kind}": w[f"{old}{norm}.{kind}"] for norm in ("norm1", "norm2")}
            made |= {f"{new}mlp.{its}.{kind}": w[f"{old}mlp.{own}.{kind}"] for own, its in mlp.items()}
        made |= {f"{new}layer_scale{j}.lambda1": w[f"{old}ls{j}.gamma"] for j in (1, 2)}
    return made


def timms(w: dict) -> dict:
    """The same as timm's own files name them."""
    made = {}
    words = {"storage_tokens": "reg_token", "ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
    words |= {"mlp.w1": "mlp.fc1_g", "mlp.w2": "mlp.fc1_x", "mlp.w3": "mlp.fc2"}
    for name, value in w.items():
        if name.endswith("attn.qkv.bias"):
            query, _, last = value.chunk(3)
            made[name.replace("qkv.bias", "q_bias")] = query.clone()
            made[name.replace("qkv.bias", "v_bias")] = last.clone()
        elif name not in ("mask_token", "rope_embed.periods") and not name.endswith("bias_mask"):
            for old, new in words.items():
                name = name.replace(old, new)
            made[name] = value
    return made


def oracle(w: dict, pixels: torch.Tensor, *, blocks: int = DEPTH - 2, norm: bool = True) -> torch.Tensor:
    """Patch features after `blocks` blocks in float64, from the description in the paper and its code."""
    w = {name: value.double() for name, value in w.items()}
    x = (pixels.double() - MEAN.double()[:, None, None]) / STD.double()[:, None, None]
    grid = pixels.shape[-1] // PATCH
    columns = F.unfold(x, PATCH, stride=PATCH).transpose(1, 2)
    x = columns @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    x = torch.cat([torch.cat([w["cls_token"], w["storage_tokens"]], 1).expand(len(x), -1, -1), x], 1)
    # Position of a patch: its centre, from -1 to 1 over the picture, rows before columns.
    centres = [(2 * i + 1) / grid - 1 for i in range(grid)]
    quarter = D // HEADS // 4
    angle = torch.zeros(grid * grid, 2 * quarter, dtype=torch.float64)
    for place, (row, column) in enumerate((r, c) for r in centres for c in centres):
        for j in range(quarter):
            period = 100 ** (j / quarter)
            angle[place, j] = 2 * math.pi * row / period
            angle[place, quarter + j] = 2 * math.pi * column / period

    def turned(x: torch.Tensor) -> torch.Tensor:
        """Channel j and channel j + half are a pair, turned by the j-th angle; class and registers stay."""
        first, second = x[..., 5:, : 2 * quarter], x[..., 5:, 2 * quarter :]
        a = first * angle.cos() - second * angle.sin()
        b = second * angle.cos() + first * angle.sin()
        return torch.cat([x[..., :5, :], torch.cat([a, b], -1)], -2)

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return centred * scale * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"] * w.get(f"{name}.bias_mask", 1)

    for i in range(blocks):
        block = f"blocks.{i}"
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in linear(normed(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        )
        scores = (turned(query) @ turned(key).transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        y = linear((scores @ value).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + y * w[f"{block}.ls1.gamma"]
        y = normed(x, f"{block}.norm2")
        if f"{block}.mlp.w1.weight" in w:
            gate = linear(y, f"{block}.mlp.w1")
            y = linear(gate * gate.sigmoid() * linear(y, f"{block}.mlp.w2"), f"{block}.mlp.w3")
        else:
            y = linear(y, f"{block}.mlp.fc1")
            y = linear(0.5 * y * (1 + torch.erf(y / 2**0.5)), f"{block}.mlp.fc2")
        x = x + y * w[f"{block}.ls2.gamma"]
    return (normed(x, "norm") if norm else x)[:, 5:]


NAMES = {
    "meta": lambda w: w,
    "transformers": transformers,
    "transformers, its encoder apart": lambda w: {
        name.replace("layer.", "model.layer.", 1): value for name, value in transformers(w).items()
    },
    "timm": timms,
    "wrapped": lambda w: {"teacher": {f"backbone.{name}": value for name, value in w.items()}},
}


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("names", NAMES)
def test_features_are_those_of_the_description(names, gated, tmp_path, capsys):
    w, pixels = metas(gated=gated), torch.rand(2, 3, 12, 12)
    content = NAMES[names](w)
    assert is_dinov3(content)
    state = torch.get_rng_state()
    encoder = convert_dinov3(content, norm=not gated, **HOW)
    assert torch.equal(state, torch.get_rng_state())
    assert capsys.readouterr().err.count("DINOv3 License") == 1
    expected = oracle(w, pixels, norm=not gated)  # block -3 of 4 is the second
    torch.testing.assert_close(encoder(pixels).double(), expected, rtol=1e-5, atol=1e-5)
    save(encoder, tmp_path / "encoder")
    again = load(tmp_path / "encoder", kind="encoder")
    assert again.config == encoder.config and torch.equal(again(pixels), encoder(pixels))


def test_the_oracle_sees_what_is_easily_got_wrong():
    """Each moves the features by far more than the tolerance."""
    w, pixels = metas(), torch.rand(1, 3, 12, 12)
    base, zeros = oracle(w, pixels), torch.zeros(D)
    turned = pixels.transpose(-1, -2)
    others = {
        "bias of keys": {name: value for name, value in w.items() if not name.endswith("bias_mask")},
        "LayerScale": {name: value + name.endswith("gamma") for name, value in w.items()},
        "registers": w | {"storage_tokens": -w["storage_tokens"]},
        "bias of queries": w | {"blocks.0.attn.qkv.bias": torch.cat([zeros, torch.ones(D), zeros])},
    }
    for name, other in others.items():
        assert (oracle(other, pixels) - base).abs().max() > 1e-3, name
    rows = oracle(w, turned).unflatten(1, (3, 3)).transpose(1, 2).flatten(1, 2)
    symmetric = w | {"patch_embed.proj.weight": w["patch_embed.proj.weight"].transpose(-1, -2)}
    assert (oracle(symmetric, turned) - rows).abs().max() > 1e-4, "rows are not columns"


@pytest.mark.parametrize("size", [8, 16, 20])
def test_any_size_needs_no_table_of_positions(size):
    w, pixels = metas(), torch.rand(1, 3, size, size)
    encoder = convert_dinov3(w, **{**HOW, "image_size": size})
    torch.testing.assert_close(encoder(pixels).double(), oracle(w, pixels), rtol=1e-5, atol=1e-5)


def test_names_go_both_ways(tmp_path):
    """What is made of Meta's names is a file that timm's own network takes, strictly, with equal features."""
    w = metas()
    encoder = convert_dinov3(w, block=-1, **HOW)
    assert {f"vit.{name}" for name in timms(w)} == set(encoder.state_dict())
    save_file(timms(w), tmp_path / "timm.safetensors")
    config = EncoderConfig("vit_small_patch16_dinov3", 12, block=-1, arguments=encoder.config.arguments)
    again, pixels = Encoder(config, tmp_path / "timm.safetensors"), torch.rand(1, 3, 12, 12)
    assert torch.equal(again(pixels), encoder(pixels))


def test_the_biases_may_be_absent(capsys):
    """timm's files of the published models have none of queries and values, which are zero in Meta's."""
    w = {name: value * (not name.endswith("qkv.bias")) for name, value in metas().items()}
    bare = {name: value for name, value in timms(w).items() if not name.endswith(("q_bias", "v_bias"))}
    pixels = torch.rand(1, 3, 12, 12)
    encoder = convert_dinov3(bare, **HOW)
    assert "qkv_bias" not in encoder.config.arguments
    torch.testing.assert_close(encoder(pixels).double(), oracle(w, pixels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "gated"), _SIZES)
def test_timm_builds_by_its_name_what_the_table_says(size, gated):
    with torch.device("meta"):
        network = timm().create_model(f"vit_{size}_patch16_dinov3", num_classes=0)
    block = network.blocks[0]
    assert (network.embed_dim, len(network.blocks), block.attn.num_heads) == _SIZES[size, gated]
    assert hasattr(block.mlp, "fc1_g") == gated and block.mlp.fc2.in_features == 4 * network.embed_dim
    assert all(module.eps == 1e-5 for module in network.modules() if isinstance(module, torch.nn.LayerNorm))
    assert network.rope.temperature == 100 and network.rope.rotate_half


def test_a_published_size_is_known_by_its_name_alone():
    with torch.device("meta"):
        network = timm().create_model("vit_base_patch16_dinov3", num_classes=0)
    content = {name: torch.zeros(value.shape) for name, value in network.state_dict().items()}
    encoder = convert_dinov3(content, where="file")
    assert (encoder.config.name, encoder.config.arguments) == ("vit_base_patch16_dinov3", {})
    assert encoder.tokens == 196 and encoder.width == 768


def test_short_names_are_timms():
    for name in ("dinov3-s", "dinov3-b", "dinov3-l"):
        config = encoder_config(name)
        assert timm().is_model(config.name) and config.image_size == 224 and config.hosted
        published = timm().models.get_pretrained_cfg(config.name)
        assert (config.mean, config.std) == (published.mean, published.std)


def test_the_licence_is_told_once_and_stored_in_what_is_written(tmp_path, capsys):
    torch.save(metas(), tmp_path / "meta.pth")
    out = tmp_path / "encoder"
    convert(tmp_path / "meta.pth", out, image_size=12, encoder_heads=HEADS)
    assert capsys.readouterr().err.count("DINOv3 License") == 1
    assert "DINOv3 License" in describe(out)["extra"]["licence"]
    encoder = load(out)
    tokenizer = Tokenizer(TokenizerConfig(encoder.config, 4), encoder=encoder, centroids=torch.rand(4, D))
    save(tokenizer, tmp_path / "tokenizer", extra={"size": 12})
    assert describe(tmp_path / "tokenizer")["extra"].keys() == {"size", "licence"}
    with pytest.raises(DigitError, match="position_rule is not of DINOv3"):
        convert(tmp_path / "meta.pth", tmp_path / "other", position_rule="reference")


def test_a_table_of_centroids_takes_a_dinov3(tmp_path):
    import numpy as np

    torch.save(metas(), tmp_path / "meta.pth")
    np.save(tmp_path / "km.npy", np.zeros((4, D), np.float32))
    how = {"encoder": tmp_path / "meta.pth", "image_size": 12, "encoder_heads": HEADS}
    assert convert(tmp_path / "km.npy", tmp_path / "tokenizer", **how)["kind"] == "tokenizer"


def test_the_loader_takes_timms_names_and_sends_others_to_convert(tmp_path, capsys):
    config = EncoderConfig(
        "vit_small_patch16_dinov3", 12, arguments=convert_dinov3(metas(), **HOW).config.arguments
    )
    for name, words in (("meta", "names of DINOv3's authors: `digit convert`"), ("transformers", "convert")):
        save_file(NAMES[name](metas()), tmp_path / f"{name}.safetensors")
        with pytest.raises(DigitError, match=words):
            Encoder(config, tmp_path / f"{name}.safetensors")
    capsys.readouterr()
    save_file(timms(metas()), tmp_path / "timm.safetensors")
    Encoder(config, tmp_path / "timm.safetensors")
    assert capsys.readouterr().err.count("DINOv3 License") == 1
    assert load_file(tmp_path / "timm.safetensors")


def broken(**tensors: object) -> dict:
    return metas() | {name.replace("__", "."): value for name, value in tensors.items()}


BAD = {
    "no arrays of floats: epoch": (broken(epoch=3), {}),
    "not finite, in norm.bias": (broken(norm__bias=torch.full((D,), torch.nan)), {}),
    "unknown: cls_norm.weight": (broken(cls_norm__weight=torch.ones(D)), {}),
    "missing: blocks.3.gamma_1": (
        {name: value for name, value in metas().items() if name != "blocks.3.ls1.gamma"},
        {},
    ),
    "unknown: blocks.0.attn.qkv.bias": (
        {name: value for name, value in metas().items() if not name.endswith("bias_mask")},
        {},
    ),
    "positions of another base": (broken(rope_embed__periods=torch.ones(4)), {}),
    "encoder_heads 5 gives no multiple of 4": (metas(), {"heads": 5}),
    "patches of 4 pixels, which 15": (metas(), {"image_size": 15}),
    "has 4 blocks, none numbered -5": (metas(), {"block": -5}),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_sentence(words):
    content, settings = BAD[words]
    with pytest.raises(DigitError, match=words) as caught:
        convert_dinov3(content, **{**HOW, **settings})
    assert "\n" not in str(caught.value)


def test_other_vits_are_none():
    w = metas()
    for content in (None, 3, [], {}, {"model": None}, {1: 2}, {"patch_embed.proj.weight": w["cls_token"]}):
        assert not is_dinov3(content)
    assert is_vit({"blocks.0.attn.qkv.weight": w["cls_token"]})

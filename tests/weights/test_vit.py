"""digit.weights.vit: official files of four families against a float64 oracle and the golden values."""

import argparse
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests_support import make_pictures

from digit.errors import DigitError
from digit.features import Encoder
from digit.nn.backbone import timm
from digit.run.fit import fit
from digit.weights.artifact import artifact_of, load, save
from digit.weights.foreign import read, without_prefix
from digit.weights.vit import _NAMES, VitSizes, convert_vit, is_vit, measure, timm_name, vit_layout

FIXTURES = Path(__file__).parents[1] / "fixtures"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def values(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weights(*, grid: int = 3, registers: int = 0, scaled: bool = False, gated: bool = False) -> dict:
    """A tiny ViT under the authors' names: 4 blocks, 32 channels, patches of 4 pixels, 48 inside an MLP."""
    d, hidden = 32, 48
    made = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, grid**2 + 1, d),
        "patch_embed.proj.weight": (d, 3, 4, 4),
        "patch_embed.proj.bias": (d,),
    }
    if registers:
        made["register_tokens"] = (1, registers, d)
    for i in range(4):
        block = f"blocks.{i}"
        made |= {f"{block}.norm1.weight": (d,), f"{block}.norm1.bias": (d,)}
        made |= {f"{block}.attn.qkv.weight": (3 * d, d), f"{block}.attn.qkv.bias": (3 * d,)}
        made |= {f"{block}.attn.proj.weight": (d, d), f"{block}.attn.proj.bias": (d,)}
        made |= {f"{block}.norm2.weight": (d,), f"{block}.norm2.bias": (d,)}
        if scaled:
            made |= {f"{block}.ls1.gamma": (d,), f"{block}.ls2.gamma": (d,)}
        if gated:
            made |= {f"{block}.mlp.w12.weight": (2 * hidden, d), f"{block}.mlp.w12.bias": (2 * hidden,)}
            made |= {f"{block}.mlp.w3.weight": (d, hidden), f"{block}.mlp.w3.bias": (d,)}
        else:
            made |= {f"{block}.mlp.fc1.weight": (hidden, d), f"{block}.mlp.fc1.bias": (hidden,)}
            made |= {f"{block}.mlp.fc2.weight": (d, hidden), f"{block}.mlp.fc2.bias": (d,)}
    made |= {"norm.weight": (d,), "norm.bias": (d,)}
    # Faint tokens: a wrong eps in the first norm changes everything after it.
    faint = {"cls_token", "pos_embed", "register_tokens", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    return {
        name: values(shape, seed) * (1e-3 if name in faint else 0.3)
        for seed, (name, shape) in enumerate(made.items())
    }


def oracle(w: dict, pixels: torch.Tensor, *, blocks: int, heads: int, norm: bool = True) -> torch.Tensor:
    """Patch features after `blocks` blocks in float64, from the definition; the table fits the picture."""
    w = {name: value.double() for name, value in w.items()}
    x = (pixels.double() - MEAN.double()[:, None, None]) / STD.double()[:, None, None]
    patch = w["patch_embed.proj.weight"].shape[-1]
    columns = F.unfold(x, patch, stride=patch).transpose(1, 2)
    x = columns @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    registers = w.get("register_tokens", torch.zeros(1, 0, x.shape[-1], dtype=torch.float64))
    x = torch.cat([x[:, :1], registers.expand(len(x), -1, -1), x[:, 1:]], 1)

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return centred * scale * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for i in range(blocks):
        block = f"blocks.{i}"
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in linear(normed(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        )
        scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        y = linear((scores @ value).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + y * w.get(f"{block}.ls1.gamma", 1)
        y = normed(x, f"{block}.norm2")
        if f"{block}.mlp.w12.weight" in w:
            gate, let_through = linear(y, f"{block}.mlp.w12").chunk(2, -1)
            y = linear(gate * gate.sigmoid() * let_through, f"{block}.mlp.w3")
        else:
            y = linear(y, f"{block}.mlp.fc1")
            y = linear(0.5 * y * (1 + torch.erf(y / 2**0.5)), f"{block}.mlp.fc2")
        x = x + y * w.get(f"{block}.ls2.gamma", 1)
    return (normed(x, "norm") if norm else x)[:, 1 + registers.shape[1] :]


def prefixed(prefix: str, tensors: dict) -> dict:
    return {prefix + name: value for name, value in tensors.items()}


def mocov3_head(prefix: str) -> dict:
    head = {
        "0.weight": values((8, 32)),
        "1.running_mean": values((8,)),
        "1.num_batches_tracked": torch.ones(1),
    }
    return prefixed(f"{prefix}head.", {**head, "1.num_batches_tracked": torch.tensor(3)})


def renamed(tensors: dict) -> dict:
    """As transformers' Dinov2Model names them, queries, keys and values apart."""
    names = {"cls_token": "embeddings.cls_token", "mask_token": "embeddings.mask_token"}
    names |= {"register_tokens": "embeddings.register_tokens", "pos_embed": "embeddings.position_embeddings"}
    pairs = [("patch_embed.proj.", "embeddings.patch_embeddings.projection."), ("blocks.", "encoder.layer.")]
    pairs += [("attn.proj.", "attention.output.dense."), ("ls1.gamma", "layer_scale1.lambda1")]
    pairs += [("ls2.gamma", "layer_scale2.lambda1"), ("mlp.w12.", "mlp.weights_in.")]
    pairs += [("mlp.w3.", "mlp.weights_out.")]
    made = {}
    for name, value in tensors.items():
        if ".attn.qkv." in name:
            for which, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                made[
                    name.replace("blocks.", "encoder.layer.").replace(
                        "attn.qkv", f"attention.attention.{which}"
                    )
                ] = part
            continue
        own = names.get(name, name.replace("norm.", "layernorm.") if name.startswith("norm.") else name)
        for ours, theirs in pairs:
            own = own.replace(ours, theirs)
        made[own] = value
    return made


IBOT_HEAD = {"head.mlp.0.weight": values((8, 32)), "head.last_layer.weight_g": values((8, 1))}
DECODER = {"decoder_pos_embed": values((1, 10, 8)), "decoder_blocks.0.norm1.weight": values((8,))}
PLAIN, OTHER = weights(), {name: value + 1 for name, value in weights().items()}
SCALED = weights(scaled=True) | {"mask_token": torch.zeros(1, 32)}
FULL = weights(scaled=True, gated=True, registers=4) | {"mask_token": torch.zeros(1, 32)}
SINES = {**PLAIN, "pos_embed": torch.cat([torch.zeros(1, 1, 32), PLAIN["pos_embed"][:, 1:]], 1)}
JUNK = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3, "args": argparse.Namespace(lr=1)}
TRAINED = {"module.momentum_encoder.": OTHER, "module.predictor.": {"0.weight": values((8, 8))}}
MOCO = prefixed("module.base_encoder.", SINES) | mocov3_head("module.base_encoder.")
MOCO |= mocov3_head("module.momentum_encoder.")
for start, part in TRAINED.items():
    MOCO |= prefixed(start, part)
FILES = {
    "dinov2": (weights(scaled=True) | {"mask_token": torch.zeros(1, 32)},) * 2,
    "dinov2-reg": (weights(scaled=True, registers=4) | {"mask_token": torch.zeros(1, 32)},) * 2,
    "dinov2-g": (weights(scaled=True, gated=True) | {"mask_token": torch.zeros(1, 32)},) * 2,
    "dinov2-g-reg": (weights(scaled=True, gated=True, registers=4),) * 2,
    "registers, no scale": (weights(registers=2),) * 2,
    "ibot": (
        {
            "teacher": prefixed("backbone.", PLAIN) | IBOT_HEAD,
            "student": prefixed("backbone.", OTHER),
            **JUNK,
        },
        PLAIN,
    ),
    "ibot, parallel": (
        {"teacher": prefixed("module.backbone.", PLAIN) | prefixed("module.", IBOT_HEAD)},
        PLAIN,
    ),
    "ibot, backbone": ({"state_dict": PLAIN}, PLAIN),
    "ibot, student": ({"state_dict": PLAIN | {"masked_embed": values((1, 32))} | IBOT_HEAD}, PLAIN),
    "mocov3": ({"state_dict": MOCO, "arch": "vit_base", **JUNK}, SINES),
    "mae": ({"model": SINES}, SINES),
    "mae, with decoder": ({"model": SINES | DECODER | {"mask_token": values((1, 1, 32))}, **JUNK}, SINES),
    "copy of ibot": (PLAIN | IBOT_HEAD, PLAIN),
    "copy of mae": (SINES, SINES),
    "copy of mocov3": (SINES | mocov3_head(""), SINES),
    "compiled": (prefixed("_orig_mod.", SCALED), SCALED),
    "compiled, wrapped": ({"state_dict": prefixed("model.encoder._orig_mod.", SCALED)}, SCALED),
    "teacher": (prefixed("teacher.backbone.", SCALED), SCALED),
    "running mean": ({"model": OTHER, "model_ema": SINES}, SINES),
    "transformers": (renamed(SCALED), SCALED),
    "transformers, wrapped": (prefixed("dinov2.", renamed(SCALED)), SCALED),
    "transformers, registers": (renamed(FULL), FULL),
}


@pytest.mark.parametrize(
    ("family", "norm"), [*((family, True) for family in FILES), ("dinov2-reg", False), ("ibot", False)]
)
def test_families_give_what_the_definition_gives(tmp_path, family, norm):
    content, tensors = FILES[family]
    torch.save(content, tmp_path / "official.pth")
    content = read(tmp_path / "official.pth")
    assert is_vit(content)
    state = torch.get_rng_state()
    encoder = convert_vit(content, where="official.pth", image_size=12, heads=4, norm=norm)
    assert torch.equal(state, torch.get_rng_state())
    pixels = torch.rand(2, 3, 12, 12)
    expected = oracle(tensors, pixels, blocks=2, heads=4, norm=norm)  # block -3 of 4 is the second
    torch.testing.assert_close(encoder(pixels).double(), expected, rtol=1e-4, atol=1e-4)
    save(encoder, tmp_path / "encoder")
    again = load(tmp_path / "encoder", kind="encoder")
    assert again.config == encoder.config and isinstance(again, Encoder)
    assert torch.equal(again(pixels), encoder(pixels))
    assert all(torch.equal(again.state_dict()[name], value) for name, value in encoder.state_dict().items())


def test_the_oracle_sees_blocks_heads_norm_scale_and_registers():
    """Each of them moves the features by far more than the tolerance of the tests that use it."""
    full, pixels = weights(scaled=True, registers=4), torch.rand(1, 3, 12, 12)
    base = oracle(full, pixels, blocks=2, heads=4)
    others = {
        "blocks": oracle(full, pixels, blocks=3, heads=4),
        "heads": oracle(full, pixels, blocks=2, heads=2),
        "norm": oracle(full, pixels, blocks=2, heads=4, norm=False),
        "scale": oracle(weights(registers=4), pixels, blocks=2, heads=4),
        "registers": oracle(weights(scaled=True), pixels, blocks=2, heads=4),
    }
    for name, other in others.items():
        assert (other - base).abs().max() > 1e-2, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32(dtype):
    stored = {name: value.to(dtype) for name, value in weights(registers=4, scaled=True).items()}
    encoder = convert_vit(stored, where="file", image_size=12, heads=4)
    assert all(value.dtype == torch.float32 for value in encoder.state_dict().values())
    pixels = torch.rand(1, 3, 12, 12)
    expected = oracle(stored, pixels, blocks=2, heads=4)
    torch.testing.assert_close(encoder(pixels).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "count", "elements"),
    [
        ({"width": 768, "depth": 12, "registers": 4}, 176, 86_583_552),
        ({"width": 1024, "depth": 24, "registers": 4}, 344, 304_372_736),
        ({"width": 384, "depth": 12}, 175, 22_056_576),
        (
            {"width": 768, "depth": 12, "patch": 16, "positions": 197, "scaled": False, "mask_token": False},
            150,
            85_798_656,
        ),
    ],
)
def test_layouts_have_the_published_counts(sizes, count, elements):
    shapes = vit_layout(**sizes).values()
    assert len(shapes) == count
    assert sum(torch.Size(shape).numel() for shape in shapes) == elements


@pytest.mark.parametrize("name", _NAMES)
def test_timm_builds_by_its_name_what_the_table_says(name):
    sizes, heads = _NAMES[name]
    assert timm_name(sizes, heads) == (name, {})
    with torch.device("meta"):
        vit = timm().create_model(name, num_classes=0)
    assert vit.blocks[0].attn.num_heads == heads
    assert all(module.eps == 1e-6 for module in vit.modules() if isinstance(module, torch.nn.LayerNorm))
    layout = {
        key: shape
        for key, shape in vit_layout(**asdict(sizes)).items()
        if key not in ("mask_token", "pos_embed")
    }
    theirs = {key: tuple(value.shape) for key, value in vit.state_dict().items() if key != "pos_embed"}
    names = {"w12": "fc1", "w3": "fc2", "register_tokens": "reg_token"}
    renamed = {".".join(names.get(part, part) for part in key.split(".")): layout[key] for key in layout}
    assert renamed == theirs
    empty = {key: torch.empty(shape, device="meta") for key, shape in vit_layout(**asdict(sizes)).items()}
    assert measure(empty) == sizes


def test_names_with_arguments_build_the_sizes():
    pairs = ((11, 15), (11, 49), (48, 100))
    for width, hidden in pairs:  # where a ratio multiplied back would be rounded to another number
        for gated in (False, True):
            name, arguments = timm_name(VitSizes(width, 2, hidden, gated=gated, registers=3), 1)
            vit = timm().create_model(name, num_classes=0, img_size=14, **arguments)
            assert vit.blocks[0].mlp.fc2.in_features == hidden and vit.num_prefix_tokens == 4


@pytest.mark.parametrize(
    ("width", "moco", "heads"),
    [(384, False, 6), (384, True, 12), (768, True, 12), (1280, False, 16), (64, False, 1), (32, False, None)],
)
def test_heads_by_width(width, moco, heads):
    """MoCo v3's ViT-S has 12 heads of 32 channels, ViT-H has 16 of 80, all others have heads of 64."""
    sizes = VitSizes(width, 1, 8, patch=2, positions=5, scaled=False, mask_token=False)
    content = {name: values(shape) for name, shape in vit_layout(**asdict(sizes)).items()}
    if moco:
        content = {"state_dict": prefixed("module.base_encoder.", content)}
    if heads is None:
        with pytest.raises(DigitError, match=r"file does not say .* its 32 channels .* pass encoder_heads"):
            convert_vit(content, where="file", image_size=4, block=-1)
        return
    encoder = convert_vit(content, where="file", image_size=4, block=-1)
    assert encoder.vit.blocks[0].attn.num_heads == heads


def fixture_encoder(**settings: object) -> Encoder:
    tensors = without_prefix(read(FIXTURES / "stage1_uncond.pt")["model"], "pretrained_encoder.")
    assert len(tensors) == 176
    return convert_vit(tensors, where="stage1_uncond.pt", heads=3, **settings)


def test_golden_features_under_the_reference_rule():
    """Tolerances: manifest.json of the fixtures."""
    golden = load_file(FIXTURES / "tokenizer.safetensors")
    encoder = fixture_encoder(position_rule="reference")
    assert encoder.config.name == "vit_base_patch14_reg4_dinov2" and encoder.config.block == -3
    assert encoder.config.arguments == {"embed_dim": 24, "num_heads": 3}
    positions = golden["pos_embed_16x16"]
    torch.testing.assert_close(encoder.vit.pos_embed, positions[:, 1:], rtol=0, atol=2e-5)
    pixels = golden["images_u8"].float() / 255
    seen = F.interpolate(encoder.standardize(pixels), size=(224, 224), mode="bicubic", align_corners=False)[
        ..., ::7, ::7
    ]
    torch.testing.assert_close(seen, golden["resized_norm_every7"], rtol=0, atol=3e-4)
    features = encoder(pixels)
    torch.testing.assert_close(features, golden["features"], rtol=0, atol=3e-4)
    codes = torch.cdist(features.double(), read(FIXTURES / "km.npy").double()[None]).argmin(-1)
    assert torch.equal(codes, golden["ids_npy"])
    other = fixture_encoder(position_rule="official")(pixels)
    assert (other - golden["features"]).abs().max() > 1e-2, "the rules must differ visibly"


def test_the_official_rule_of_register_models_is_timms():
    tensors = without_prefix(read(FIXTURES / "stage1_uncond.pt")["model"], "pretrained_encoder.")
    encoder = fixture_encoder()
    assert encoder.config.position_rule == "timm"
    resample = timm().layers.resample_abs_pos_embed
    expected = resample(tensors["pos_embed"][:, 1:], [16, 16], [37, 37], num_prefix_tokens=0)
    assert torch.equal(encoder.vit.pos_embed, expected)
    assert torch.equal(encoder.vit.cls_token, tensors["cls_token"] + tensors["pos_embed"][:, :1])


@pytest.mark.parametrize("family", ["dinov2", "ibot", "mae", "mocov3", "dinov2-reg"])
def test_position_rules_by_family(family):
    content, tensors = FILES[family]
    table = tensors["pos_embed"][:, 1:].unflatten(1, (3, 3)).permute(0, 3, 1, 2)
    plain = F.interpolate(table, scale_factor=5.1 / 3, mode="bicubic", align_corners=False)
    smooth = F.interpolate(table, size=5, mode="bicubic", antialias=True, align_corners=False)
    official = {"dinov2": plain, "ibot": plain}.get(family, smooth)
    for rule, expected in (("official", official), ("reference", plain)):
        encoder = convert_vit(content, where="file", image_size=20, heads=4, position_rule=rule)
        assert encoder.grid == 5
        got = encoder.vit.pos_embed[:, -25:]
        torch.testing.assert_close(got, expected.permute(0, 2, 3, 1).flatten(1, 2))
        if family != "dinov2-reg":
            assert torch.equal(encoder.vit.pos_embed[:, :1], tensors["pos_embed"][:, :1])
    same = convert_vit(content, where="file", image_size=12, heads=4, position_rule="reference")
    assert torch.equal(same.vit.pos_embed[:, -9:], tensors["pos_embed"][:, 1:])


@pytest.mark.parametrize("prefix", ["", "module.base_encoder."])
def test_missing_unknown_and_odd_tensors_are_named(prefix):
    tensors = weights(scaled=True)
    for i in range(4):
        del tensors[f"blocks.{i}.norm1.weight"]
    del tensors["cls_token"]
    tensors |= {f"surplus.{i}": torch.ones(1) for i in range(12)}
    tensors["blocks.2.attn.proj.bias"] = torch.ones(31)
    content = {"state_dict": prefixed(prefix, tensors)} if prefix else tensors
    with pytest.raises(DigitError) as caught:
        convert_vit(content, where="the file", heads=4)
    told = str(caught.value)
    missing = ["cls_token", *(f"blocks.{i}.norm1.weight" for i in range(4))]
    assert f"missing: {', '.join(prefix + name for name in missing)};" in told
    assert f"unknown: {', '.join(f'{prefix}surplus.{i}' for i in range(12))};" in told
    assert told.startswith("the file") and told.endswith(f"{prefix}blocks.2.attn.proj.bias [31] for [32]")


def test_the_running_mean_is_said_to_be_read(capsys):
    convert_vit({"model": OTHER, "model_ema": SINES}, where="file", image_size=12, heads=4)
    assert "file: the running mean of the weights (model_ema) is read" in capsys.readouterr().err
    convert_vit({"model": OTHER, "ema": renamed(SCALED)}, where="file", image_size=12, heads=4)
    assert "(ema) is read" in capsys.readouterr().err
    convert_vit({"model": SINES}, where="file", image_size=12, heads=4)
    assert capsys.readouterr().err == ""


def test_a_matrix_that_lacks_a_part_is_missing():
    content = renamed(SCALED)
    del content["encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(DigitError, match=r"missing: blocks\.1\.attn\.qkv\.weight$"):
        convert_vit(content, where="file", image_size=12, heads=4)


def test_names_beside_the_prefix_never_pass_as_those_under_it():
    content = {"teacher": prefixed("backbone.", PLAIN) | {"norm.weight": torch.ones(32)}}
    with pytest.raises(DigitError, match=r"unknown: norm\.weight$"):
        convert_vit(content, where="file", image_size=12, heads=4)


def changed(**tensors: object) -> dict:
    return weights() | {name.replace("__", "."): value for name, value in tensors.items()}


BAD = {
    "holds no ViT": ({"model": {"w": torch.ones(1)}}, {}),
    "no arrays of floats: epoch": (weights() | {"epoch": 3}, {}),
    "no arrays of floats: 3": (weights() | {3: torch.ones(1)}, {}),
    "no arrays of floats: cls_token": (changed(cls_token=torch.ones(1, 1, 32, dtype=torch.int32)), {}),
    "no arrays of floats: norm.bias": (changed(norm__bias=torch.ones(32).to(torch.float8_e5m2)), {}),
    "no arrays of floats: norm.weight": (changed(norm__weight=torch.ones(32, device="meta")), {}),
    "no arrays of floats: blocks.0.norm1.bias": (
        changed(blocks__0__norm1__bias=torch.ones(32).to_sparse()),
        {},
    ),
    "not finite, in norm.bias": (changed(norm__bias=torch.full((32,), torch.nan)), {}),
    "for 7 patches": (changed(pos_embed=torch.ones(1, 8, 32)), {}),
    "for 0 patches": (changed(pos_embed=torch.ones(1, 1, 32)), {}),
    r"patch_embed.proj.weight \[32, 3, 4, 5\]": (
        changed(patch_embed__proj__weight=torch.ones(32, 3, 4, 5)),
        {},
    ),
    r"patch_embed.proj.weight \[32\]": (changed(patch_embed__proj__weight=torch.ones(32)), {}),
    "encoder_heads 5 does not divide the 32 channels": (weights(), {"heads": 5}),
    "encoder_heads 0 does not": (weights(), {"heads": 0}),
    "patches of 4 pixels, which 15 is no multiple": (weights(), {"image_size": 15}),
    "has 4 blocks, none numbered -5": (weights(), {"block": -5}),
    "has 0 blocks": (
        {name: value for name, value in weights().items() if not name.startswith("blocks")},
        {"image_size": 12},
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_sentence(words):
    content, settings = BAD[words]
    with pytest.raises(DigitError, match=words) as caught:
        convert_vit(content, where="file", **{"image_size": 12, "heads": 4, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [None, torch.ones(3), [], {}, {"model": None}, {1: 2}, {"model": {"decoder.version": torch.ones(1)}}],
)
def test_other_content_is_no_vit(content):
    assert not is_vit(content)


def test_fit_takes_the_folder_of_an_encoder(tmp_path):
    encoder = convert_vit(weights(), where="file", image_size=12, heads=4, block=-2)
    id = save(encoder, tmp_path / "encoder")
    images = str(make_pictures(tmp_path / "pictures.zip", count=6))
    options = {"clusters": 4, "iterations": 2, "device": "cpu", "encoder": str(tmp_path / "encoder")}
    fit(images, tmp_path / "tokenizer", **options)
    tokenizer = load(tmp_path / "tokenizer", kind="tokenizer")
    assert tokenizer.config.encoder == encoder.config
    assert artifact_of(tokenizer)["lineage"] == {"encoder": id}
    assert str(tmp_path) not in str(artifact_of(tokenizer))
    for name, value in encoder.state_dict().items():
        assert torch.equal(tokenizer.encoder.state_dict()[name], value)
    for wrong, words in (
        ({"encoder_size": 16}, "its own weights and settings"),
        ({"encoder_weights": tmp_path / "w.safetensors"}, "its own weights and settings"),
        ({"block": -1}, "made for block -2, not -1"),
        ({"norm": False}, "made for norm True, not False"),
        ({"encoder": str(tmp_path / "tokenizer")}, "where a encoder is needed"),
        ({"encoder": str(tmp_path)}, "holds no config.json"),
    ):
        with pytest.raises(DigitError, match=words):
            fit(images, tmp_path / "other", **{**options, **wrong})


def test_the_published_base_encoder_at_full_size():
    """DINOv2-B/14 with registers, random weights: 256 tokens after ten of its twelve blocks."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in vit_layout(768, 12, positions=257, registers=4).items():
        scale = 0.02 if name.endswith(("token", "tokens", "embed")) else shape[-1] ** -0.5
        made[name] = torch.randn(shape, generator=generator) * scale
        if name.endswith((".gamma", "norm1.weight", "norm2.weight", "norm.weight")):
            made[name] = 1 + 0.1 * torch.randn(shape, generator=generator)
    encoder = convert_vit(made, where="x")
    assert encoder.config.name == "vit_base_patch14_reg4_dinov2"
    pixels = torch.rand(1, 3, 224, 224, generator=generator)
    expected = oracle(made, pixels, blocks=10, heads=12)
    features = encoder(pixels)
    assert features.shape == (1, 256, 768)
    torch.testing.assert_close(features.double(), expected, rtol=0, atol=2e-4)

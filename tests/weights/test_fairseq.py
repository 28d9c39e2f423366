import copy
from dataclasses import replace

import pytest
import torch
from fairseq_oracle import END, MASK, SPECIALS, logits, random_checkpoint, rows
from safetensors.torch import load_file
from tests_support import FIXTURES

from digit.errors import DigitError
from digit.prior import Prior
from digit.renderer import Renderer
from digit.renderer_masked import MaskedRenderer
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig
from digit.weights.artifact import identity, load, save
from digit.weights.fairseq import (
    Facts,
    convert_checkpoint,
    decoder_layout,
    is_checkpoint,
    probed_prior,
    read_facts,
)
from digit.weights.foreign import read
from digit.weights.vit import vit_layout

NAMES = ["stage1_uncond", "stage1_cls", "linear_probe", "stage2_ar", "stage2_nar", "vq_only"]


@pytest.fixture(scope="module")
def contents():
    return {name: read(FIXTURES / f"{name}.pt") for name in NAMES}


@pytest.fixture
def prior_content(contents):
    content = copy.copy(contents["stage1_cls"])
    content["model"] = dict(content["model"])
    content["cfg"] = copy.deepcopy(content["cfg"])
    return content


BASE = Facts(
    kind="prior",
    width=1024,
    layers=16,
    heads=16,
    norm="post",
    codes=8192,
    length=256,
    vq_codes=0,
    vq_length=0,
    classes=0,
    positions=1026,
    features=768,
    dropout=0.1,
    label_smoothing=0.1,
)
LARGE = replace(BASE, width=1536, layers=24, heads=24, codes=16000, features=1024)
RENDERER = replace(BASE, kind="renderer", norm="pre", vq_codes=1024, vq_length=256)
VQ_ONLY = replace(BASE, kind="vq_only", norm="pre", codes=1024, features=0)


def count(layout):
    return sum(torch.Size(shape).numel() for shape in layout.values())


@pytest.mark.parametrize(
    ("facts", "values"),
    [
        (BASE, 219_377_664),
        (replace(BASE, classes=1000), 220_401_664),
        (LARGE, 730_699_776),
        (replace(LARGE, classes=1000), 732_235_776),
        (RENDERER, 214_144_000),
        (replace(RENDERER, kind="renderer_masked"), 214_144_000),
        (VQ_ONLY, 204_699_648),
    ],
    ids=["base", "base_cond", "large", "large_cond", "renderer", "masked", "vq_only"],
)
def test_trained_values_of_the_published_files(facts, values):
    layout = {name: shape for name, shape in decoder_layout(facts).items() if name.startswith("decoder.")}
    assert count(layout) - count({"decoder.version": (1,)}) == values


VIT_B, VIT_L = vit_layout(768, 12, registers=4), vit_layout(1024, 24, registers=4)


@pytest.mark.parametrize(
    ("facts", "encoder", "vqgan", "tensors"),
    [
        (BASE, VIT_B, False, 438),
        (LARGE, VIT_L, False, 734),
        (RENDERER, VIT_B, True, 609),
        (VQ_ONLY, {}, True, 430),
    ],
    ids=["base", "large", "renderer", "vq_only"],
)
def test_tensors_of_the_published_files(facts, encoder, vqgan, tensors):
    with torch.device("meta"):
        inside = len(VQGAN(VQGANConfig()).state_dict()) if vqgan else 0
    assert len(decoder_layout(facts)) + len(encoder) + inside == tensors


def test_bytes_of_the_published_files():
    """4 bytes a value, and what is left is a header's size: method and table of sizes agree."""
    base = 4 * (count(decoder_layout(BASE)) + count(VIT_B))
    assert 1_249_237_258 - base == 193_798
    renderer = 4 * (count(decoder_layout(RENDERER)) + count(VIT_B) + 54_515_587)
    assert 1_446_434_572 - renderer == 263_420


@pytest.mark.parametrize("name", NAMES)
def test_layout_is_that_of_the_files(contents, name):
    state = contents[name]["model"]
    own = {key: tuple(value.shape) for key, value in state.items() if not key.startswith(("pre", "vqgan"))}
    assert decoder_layout(read_facts(contents[name], where=name)) == own


def test_rows_that_ours_leave_out_are_the_unused_ones():
    """Our sizes are theirs less rows that no output depends on; the recipes' tests do the same sums."""
    with torch.device("meta"):
        random = {
            name: torch.empty(shape) for name, shape in decoder_layout(replace(BASE, classes=1000)).items()
        }
    ours = 220_401_664 - 1024 * (4 + 1026 - 257)
    content = random_checkpoint(replace(BASE, classes=1000), {}, copies=random)
    content["model"]["pretrained_encoder.patch_embed.proj.weight"] = torch.empty(768, 3, 14, 14)
    with torch.device("meta"):
        prior = Prior(convert_config(content))
    assert sum(parameter.numel() for parameter in prior.parameters()) == ours


def convert_config(content):
    from digit.prior import PriorConfig

    facts = read_facts(content, where="x")
    return PriorConfig(
        codes=facts.codes,
        length=facts.length,
        classes=facts.classes,
        width=facts.width,
        layers=facts.layers,
        heads=facts.heads,
        specials=5,
    )


def test_kinds(contents):
    kinds = [type(convert_checkpoint(contents[name], where=name)).__name__ for name in NAMES]
    assert kinds == ["Prior", "Prior", "Probe", "Renderer", "MaskedRenderer", "Prior"]
    assert all(is_checkpoint(contents[name]) for name in NAMES)
    assert not is_checkpoint({"model": {}})
    assert not is_checkpoint(torch.zeros(2))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stored_as", ["float32", "float16"])
def test_round_trip_is_exact(contents, name, stored_as, tmp_path):
    module = convert_checkpoint(contents[name], where=name)
    save(module, tmp_path / "a", stored_as=stored_as)
    again = load(tmp_path / "a")
    for key, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert again.config == module.config
    assert identity(again) == identity(module)


def test_safetensors_alone_hold_the_artifact(contents, tmp_path):
    module = convert_checkpoint(contents["stage1_cls"], where="x")
    save(module, tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    assert set(tensors) == set(module.state_dict())
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["stage1_cls", "stage2_ar", "stage2_nar"])
def test_artifacts_load_in_low_precision(contents, name, dtype, tmp_path):
    save(convert_checkpoint(contents[name], where=name), tmp_path / "a")
    module = load(tmp_path / "a", dtype=dtype)
    exact = load(tmp_path / "a")
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    codes = torch.arange(256)[None] % 48
    arguments = (codes, torch.tensor([3])) if name == "stage1_cls" else (codes, codes)
    with torch.no_grad():
        near, right = module.logits(*arguments).float(), exact.logits(*arguments)
    assert (near - right).abs().mean() < {torch.float32: 1e-6, torch.float16: 1e-2, torch.bfloat16: 8e-2}[
        dtype
    ]
    if name == "stage1_cls":
        assert module.sample([0, 1], torch.tensor([1, 2])).shape == (2, 256)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_files_in_low_precision(prior_content, dtype):
    exact = convert_checkpoint(prior_content, where="x")
    prior_content["model"] = {name: value.to(dtype) for name, value in prior_content["model"].items()}
    module = convert_checkpoint(prior_content, where="x")
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    for name, value in module.state_dict().items():
        assert torch.equal(value, exact.state_dict()[name].to(dtype).float())


def test_missing_unknown_and_misshapen_tensors_are_named_and_counted(prior_content):
    state = prior_content["model"]
    for i in range(2):
        del state[f"decoder.layers.{i}.fc1.weight"], state[f"decoder.layers.{i}.self_attn.k_proj.bias"]
    state["decoder.layers.0.fc2.weight"] = torch.zeros(64, 3)
    state |= {f"decoder.layers.{i}.fc3.weight": torch.zeros(1) for i in range(20)}
    with pytest.raises(DigitError) as error:
        convert_checkpoint(prior_content, where="some.pt")
    message = str(error.value)
    assert message.startswith("some.pt")
    for i in range(2):
        assert f"decoder.layers.{i}.fc1.weight" in message
        assert f"decoder.layers.{i}.self_attn.k_proj.bias" in message
    assert all(f"decoder.layers.{i}.fc3.weight" in message for i in range(12))
    assert "decoder.layers.11.fc3.weight and 8 more;" in message
    assert "decoder.layers.0.fc2.weight [64, 3] for [64, 256]" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["cfg"]["model"].update(_name="other"), "'other'"),
        (lambda c: c["cfg"]["model"].update(activation_fn="relu"), "activation_fn"),
        (lambda c: c["cfg"]["model"].update(no_scale_embedding=True), "no_scale_embedding"),
        (lambda c: c["cfg"]["model"].update(decoder_ffn_embed_dim=128), "feed-forward 128"),
        (lambda c: c["cfg"]["model"].update(decoder_layers=3), "decoder.layers.2.fc1.weight"),
        (lambda c: c["cfg"]["model"].update(decoder_attention_heads=5), "5 heads"),
        (lambda c: c["cfg"]["model"].update(decoder_attention_heads=None), "decoder_attention_heads"),
        (lambda c: c["cfg"]["model"].update(decoder_normalize_before=True), "decoder.layer_norm.weight"),
        (lambda c: c["cfg"]["model"].update(class_conditional=False), "class_conditional = False"),
        (lambda c: c["cfg"].update(model=None), "no settings"),
        (lambda c: c["model"].update(centroids=torch.zeros(24, 47)), "centroids [24, 47] for [24, 48]"),
        (lambda c: c["model"].pop("pretrained_encoder.patch_embed.proj.weight"), "patch_embed"),
        (lambda c: c["model"].update(extra=3), "no tensors: extra"),
        (lambda c: c["model"].pop("decoder.output_projection.weight"), "output_projection"),
    ],
)
def test_what_does_not_fit_is_one_sentence(prior_content, change, words):
    change(prior_content)
    with pytest.raises(DigitError) as error:
        convert_checkpoint(prior_content, where="some.pt")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "part", ["pretrained_encoder.blocks.3.mlp.fc1.bias", "vqgan.quantize.embedding.weight"]
)
def test_copies_are_checked_too(contents, part):
    content = copy.copy(contents["stage2_ar"])
    content["model"] = {name: value for name, value in content["model"].items() if name != part}
    with pytest.raises(DigitError, match=part.split(".", 1)[1]):
        convert_checkpoint(content, where="x")


def test_heads_come_from_the_settings(prior_content):
    four = convert_checkpoint(prior_content, where="x")
    prior_content["cfg"]["model"]["decoder_attention_heads"] = 2
    two = convert_checkpoint(prior_content, where="x")
    assert (four.config.heads, two.config.heads) == (4, 2)
    codes = torch.arange(256)[None] % 48
    with torch.no_grad():
        assert not torch.allclose(two.logits(codes), four.logits(codes), atol=1e-2)


def test_norm_comes_from_the_settings_and_else_from_the_tensors(prior_content, contents):
    del prior_content["cfg"]["model"]["decoder_normalize_before"]
    assert convert_checkpoint(prior_content, where="x").config.norm == "post"
    assert convert_checkpoint(contents["vq_only"], where="x").config.norm == "pre"


def test_probed_prior(contents):
    prior = probed_prior(contents["linear_probe"], where="x")
    same = convert_checkpoint(contents["stage1_uncond"], where="x")
    assert identity(prior) == identity(same)
    with pytest.raises(DigitError, match="no linear probe"):
        probed_prior(contents["stage1_uncond"], where="x")


def test_a_class_prior_needs_labels_and_an_unconditional_one_has_none(contents):
    by_class = convert_checkpoint(contents["stage1_cls"], where="x")
    assert by_class.config.classes == 1000
    with pytest.raises(DigitError, match="label"):
        by_class.sample([0])
    assert convert_checkpoint(contents["stage1_uncond"], where="x").config.classes == 0


FULL = {"prior": replace(BASE, classes=1000), "renderer": RENDERER}
FULL["renderer_masked"] = replace(RENDERER, kind="renderer_masked")


@pytest.fixture(scope="module")
def small_copies(contents):
    """Encoder and VQGAN tensors of a fixture: the decoder alone is at full size."""
    state = contents["stage2_ar"]["model"]
    return {name: value for name, value in state.items() if name.startswith(("pretrained", "vqgan"))}


@pytest.mark.parametrize("kind", list(FULL))
def test_full_size_against_float64(kind, small_copies):
    """Random weights at the published size; the oracle is written in the file's own terms."""
    facts = replace(FULL[kind], features=24)
    copies = {name: v for name, v in small_copies.items() if kind != "prior" or not name.startswith("vqgan")}
    content = random_checkpoint(facts, decoder_layout(facts), copies=copies)
    module = convert_checkpoint(content, where="x")
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(8192, (1, 256), generator=generator)
    vq_codes = torch.randint(1024, (1, 256), generator=generator)
    with torch.no_grad():
        if kind == "prior":
            assert isinstance(module, Prior)
            ids = torch.cat((torch.tensor([[8197 + 7]]), codes + SPECIALS), 1)
            expected = logits(content, ids, positions=[rows(content, 257)], causal=True)
            ours = module.vocabulary_logits(codes, torch.tensor([7]))
        else:
            read_now = vq_codes.clone()
            if kind == "renderer_masked":
                assert isinstance(module, MaskedRenderer)
                read_now[:, ::3] = MASK - SPECIALS
                vq_codes[:, ::3] = module.mask
            else:
                assert isinstance(module, Renderer)
            end = torch.tensor([[END]])
            ids = torch.cat((codes + 1029 + SPECIALS, end, read_now + SPECIALS), 1)
            positions = [rows(content, 256, "_1"), rows(content, 257)]
            expected = logits(content, ids, positions=positions, causal=kind == "renderer")[:, 256:]
            ours = module.vocabulary_logits(codes, vq_codes)
    assert expected.std() > 0.5
    torch.testing.assert_close(ours.double(), expected, atol=2e-4, rtol=0)

"""Published files as modules: what a file holds, what belongs together, and what does not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests_support import FIXTURES

from digit.errors import DigitError, LineageError
from digit.features import Encoder
from digit.nn.linear_probe import Probe
from digit.prior import Prior
from digit.renderer import Renderer
from digit.renderer_masked import MaskedRenderer
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.vqgan import VQGAN
from digit.weights.artifact import identity, load, save
from digit.weights.conversion import check_tokenizer, check_vqgan, convert_file, tokenizer_copy, vqgan_copy
from digit.weights.foreign import read

KINDS = {
    "stage1_uncond": Prior,
    "stage1_cls": Prior,
    "vq_only": Prior,
    "linear_probe": Probe,
    "stage2_ar": Renderer,
    "stage2_nar": MaskedRenderer,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_says_what_it_is(name):
    module, lineage = convert_file(FIXTURES / f"{name}.pt", encoder_heads=3)
    assert type(module) is KINDS[name]
    wanted = {"linear_probe": {"prior"}, "vq_only": {"vqgan"}}.get(name, {"tokenizer"})
    assert wanted <= set(lineage)


def test_networks_without_a_checkpoint_are_known_by_their_tensors(tmp_path):
    state = read(FIXTURES / "stage2_ar.pt")["model"]
    for prefix, kind in (("pretrained_encoder.", Encoder), ("vqgan.", VQGAN)):
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        torch.save(part, tmp_path / "file.pt")
        module, lineage = convert_file(tmp_path / "file.pt", encoder_heads=3)
        assert type(module) is kind and not lineage


def test_no_path_of_the_settings_is_opened(tmp_path):
    """Nor is any other of their texts with a stroke: what they say instead changes nothing."""
    content, changed = torch.load(FIXTURES / "stage2_ar.pt", weights_only=False), []

    def elsewhere(settings):
        for key, value in settings.items():
            if isinstance(value, dict):
                elsewhere(value)
            elif isinstance(value, str) and "/" in value:
                settings[key] = f"/nowhere/{len(changed)}"
                changed.append(key)

    elsewhere(content["cfg"])
    torch.save(content, tmp_path / "file.pt")
    assert len(changed) > 2
    before, after = (
        convert_file(file, encoder_heads=3) for file in (FIXTURES / "stage2_ar.pt", tmp_path / "file.pt")
    )
    assert identity(before[0]) == identity(after[0]) and before[1] == after[1]


def test_the_lineage_names_the_copies_in_the_file():
    """What a checkpoint was trained with is what its own copies are, taken out one by one."""
    for name, parts in {"stage1_cls": ("tokenizer",), "stage2_ar": ("tokenizer", "vqgan")}.items():
        file = FIXTURES / f"{name}.pt"
        _, lineage = convert_file(file, encoder_heads=3)
        heads = {"tokenizer": 3, "vqgan": None}
        copies = {part: convert_file(file, part=part, encoder_heads=heads[part])[0] for part in parts}
        assert lineage == {part: identity(copy) for part, copy in copies.items()}
        assert isinstance(copies["tokenizer"], Tokenizer)
    prior, none = convert_file(FIXTURES / "linear_probe.pt", part="prior")
    _, lineage = convert_file(FIXTURES / "linear_probe.pt")
    assert lineage == {"prior": identity(prior)} and not none


def test_a_tokenizer_that_was_not_trained_with_is_refused(tmp_path):
    module, _ = convert_file(FIXTURES / "stage1_cls.pt", part="tokenizer", encoder_heads=3)
    module.centroids[0] += 1
    save(module, tmp_path / "other", extra={"size": 256})
    with pytest.raises(LineageError, match="other"):
        convert_file(FIXTURES / "stage1_cls.pt", tokenizer=tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("km.npy", {}, "encoder=FILE"),
        ("km.npy", {"part": "vqgan"}, "a part vqgan"),
        ("stage1_cls.pt", {"part": "vqgan"}, "no VQGAN"),
        ("stage1_cls.pt", {"part": "prior"}, "no linear probe"),
        ("stage1_cls.pt", {"part": "tokenizer"}, "encoder_heads"),
        ("stage1_cls.pt", {"tokenizer": Path("nowhere")}, "nowhere"),
    ],
)
def test_what_does_not_go_together(name, options, words):
    with pytest.raises(DigitError, match=words):
        convert_file(FIXTURES / name, **options)


NAMES = ["stage1_uncond", "stage1_cls", "linear_probe", "stage2_ar", "stage2_nar", "vq_only"]


@pytest.fixture(scope="module")
def contents():
    return {name: read(FIXTURES / f"{name}.pt") for name in NAMES}


def test_tokenizer_of_every_checkpoint_is_the_same(contents):
    ids = {
        identity(tokenizer_copy(contents[name], where=name, encoder_heads=3))
        for name in NAMES
        if name != "vq_only"
    }
    assert len(ids) == 1
    with pytest.raises(DigitError, match="holds no tokenizer"):
        tokenizer_copy(contents["vq_only"], where="x")
    with pytest.raises(DigitError, match="holds no VQGAN"):
        vqgan_copy(contents["stage1_cls"], where="x")


def test_heads_of_an_odd_encoder_must_be_given(contents):
    with pytest.raises(DigitError, match="encoder_heads"):
        tokenizer_copy(contents["stage1_cls"], where="x")


@pytest.fixture
def exact_tokenizer(contents):
    """What the K-means table and the encoder's own file give: near the copy, not equal to it."""
    inside = tokenizer_copy(contents["stage1_cls"], where="x", encoder_heads=3)
    encoder = Encoder(inside.encoder.config)
    encoder.load_state_dict(inside.encoder.state_dict())
    centroids = read(FIXTURES / "km.npy")
    assert not torch.equal(centroids, inside.centroids)
    return Tokenizer(TokenizerConfig(encoder.config, 48), encoder=encoder, centroids=centroids)


def test_the_tokenizer_of_a_checkpoint_is_known_by_its_rounding(contents, exact_tokenizer):
    check_tokenizer(contents["stage1_cls"], exact_tokenizer, where="x")
    exact_tokenizer.centroids[3, 2] += 0.01
    with pytest.raises(LineageError, match="centroids"):
        check_tokenizer(contents["stage1_cls"], exact_tokenizer, where="x")


def test_another_encoder_is_refused(contents, exact_tokenizer):
    exact_tokenizer.encoder.vit.blocks[2].mlp.fc1.weight[0, 0] += 0.5
    with pytest.raises(LineageError, match=r"blocks\.2\.mlp\.fc1\.weight"):
        check_tokenizer(contents["stage1_cls"], exact_tokenizer, where="x")


def test_another_vqgan_is_refused(contents):
    vqgan = vqgan_copy(contents["stage2_ar"], where="x")
    check_vqgan(contents["stage2_nar"], vqgan, where="x")
    with torch.no_grad():
        vqgan.quantize.embedding.weight[0, 0] += 0.5
    with pytest.raises(LineageError, match="quantize"):
        check_vqgan(contents["stage2_ar"], vqgan, where="x")


@pytest.mark.parametrize("distance", ["exact", "stored", "half"])
def test_distances_of_a_copied_tokenizer(contents, distance, tmp_path):
    golden = load_file(FIXTURES / "tokenizer.safetensors")
    pictures = golden["images_u8"].float() / 255
    tokenizer = tokenizer_copy(contents["stage1_cls"], where="x", encoder_heads=3, distance=distance)
    codes = tokenizer.encode(pictures)
    assert (codes != golden["ids_ckpt"]).float().mean() < 0.02
    save(tokenizer, tmp_path / "a")
    assert torch.equal(load(tmp_path / "a").encode(pictures), codes)

"""digit.weights.fairseq_copies: the tokenizer and VQGAN inside a checkpoint, known by their rounding."""

import pytest
import torch
from safetensors.torch import load_file
from tests_support import FIXTURES

from digit.errors import DigitError, LineageError
from digit.features import Encoder
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.weights.artifact import identity, load, save
from digit.weights.fairseq_copies import check_tokenizer, check_vqgan, tokenizer_copy, vqgan_copy
from digit.weights.foreign import read

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
    with pytest.raises(DigitError, match="--encoder-heads"):
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

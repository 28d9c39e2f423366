"""digit.tokenizer: the composition, its state dict and what it refuses."""

import dataclasses

import pytest
import torch

from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig, in_half
from digit.kmeans import fit
from digit.tokenizer import Tokenizer, TokenizerConfig, encoding

TINY = EncoderConfig(
    "vit_tiny_patch16_224", 16, arguments={"patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 3}
)


def test_codes_are_the_nearest_centroids():
    torch.manual_seed(0)
    encoder = Encoder(TINY)
    pixels = torch.rand(5, 3, 20, 20)
    features = encoder(pixels)
    found = fit(features.flatten(0, 1), 7)
    tokenizer = Tokenizer(TokenizerConfig(TINY, 7), encoder=encoder, centroids=found.centroids)
    assert (tokenizer.grid, tokenizer.length) == (4, 16)
    codes = tokenizer.encode(pixels)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, torch.cdist(features.double(), found.centroids.double()).argmin(-1))
    assert torch.equal(tokenizer.features(pixels), features)
    assert torch.equal(tokenizer.vectors(codes), found.centroids[codes])
    assert torch.equal(torch.cat([tokenizer.encode(pixels[:2]), tokenizer.encode(pixels[2:])]), codes)


def test_the_state_dict_is_all_of_it():
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 16, 16)
    one = Tokenizer(TokenizerConfig(TINY, 7))
    one.centroids.copy_(torch.randn(7, 24))
    other = Tokenizer(TokenizerConfig(TINY, 7))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.encode(pixels), other.encode(pixels))
    assert "centroids" in one.state_dict()
    assert not any(key.endswith(("mean", "std")) for key in one.state_dict())


def test_it_is_frozen():
    tokenizer = Tokenizer(TokenizerConfig(TINY, 7)).train()
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())
    assert not tokenizer.encoder.training
    assert not tokenizer.features(torch.rand(1, 3, 16, 16, requires_grad=True)).requires_grad


def test_parts_that_do_not_belong_together_are_refused():
    other = Encoder(dataclasses.replace(TINY, block=-1))
    with pytest.raises(DigitError, match="block=-1"):
        Tokenizer(TokenizerConfig(TINY, 7), encoder=other)
    with pytest.raises(DigitError, match=r"shape \(7, 24\), these have \(8, 24\)"):
        Tokenizer(TokenizerConfig(TINY, 7), centroids=torch.zeros(8, 24))


@pytest.mark.parametrize("distance", ["exact", "half"])
def test_encoding_on_a_cpu_is_the_module(distance):
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(TINY, 7, distance))
    pixels = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    tokenizer.centroids.copy_(tokenizer.features(pixels / 255).flatten(0, 1)[::7][:7])
    assert torch.equal(encoding(tokenizer)(pixels), tokenizer.encode(pixels / 255))
    assert torch.equal(encoding(tokenizer)(pixels / 255), tokenizer.encode(pixels / 255))


def test_codes_of_half_precision_features_are_nearly_those_of_float32():
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(TINY, 7))
    pixels = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    tokenizer.centroids.copy_(tokenizer.features(pixels / 255).flatten(0, 1)[::11][:7])
    codes = tokenizer.encode(pixels / 255)
    assert len(codes.unique()) > 2
    with torch.no_grad():
        half = tokenizer.nearest(in_half(tokenizer.encoder, pixels))
    assert (half == codes).float().mean() > 0.9

"""digit.evaluation.codebook: the report's numbers, and which patches stand for a code."""

import numpy as np
import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.codebook import codebook_report, nearest_patches
from digit.features import EncoderConfig
from digit.tokenizer import Tokenizer, TokenizerConfig


def test_report_of_even_and_of_single_use():
    even = codebook_report(np.arange(8).repeat(3).reshape(4, 6), 8)
    assert even == {
        "codes": 8,
        "used": 8,
        "dead": 0,
        "usage": 1.0,
        "entropy_bits": pytest.approx(3),
        "perplexity": pytest.approx(8),
    }
    single = codebook_report(np.full((4, 6), 5, dtype=np.uint16), 8)
    assert (single["used"], single["dead"], single["perplexity"]) == (1, 7, 1.0)


def test_report_refuses_codes_of_another_codebook():
    with pytest.raises(DigitError, match="run from 0 to 8, the codebook has 8"):
        codebook_report(np.arange(9), 8)
    with pytest.raises(DigitError, match="no codes"):
        codebook_report(np.zeros((0, 4), dtype=np.int64), 8)


def colours() -> Tokenizer:
    """A tokenizer whose features are mean colours of 4 x 4 patches, and whose centroids are four colours."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        "vit_tiny_patch16_224", 16, arguments={"patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2}
    )
    tokenizer = Tokenizer(TokenizerConfig(encoder, 4))
    table = torch.zeros(4, 12)
    table[1, 0] = table[2, 1] = table[3, 2] = 1.0
    tokenizer.centroids.copy_(table)

    class Means(torch.nn.Module):
        grid, tokens, width = 4, 16, 12

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            means = torch.nn.functional.avg_pool2d(pixels, 4).flatten(2).transpose(1, 2)
            return torch.nn.functional.pad(means, (0, 9))

    tokenizer.encoder = Means()
    return tokenizer


def test_a_row_shows_the_nearest_patches_of_its_code():
    pixels = torch.zeros(6, 3, 16, 16)
    for index, strength in enumerate([0.6, 1.0, 0.8, 0.7]):
        pixels[index, 0, 4:8, 8:12] = strength  # one red patch in each of four pictures, none in two
    seen = nearest_patches(colours(), pixels.split(2), codes=[1, 3], columns=5, context=0.0, size=8)
    assert seen.patches.shape == (2, 5, 3, 8, 8)
    centres = seen.patches[:, :, :, 4, 4]
    assert centres[0, :, 0].tolist() == [255, 204, 178, 153, 255]  # best first, then white
    assert centres[0, :, 1].tolist() == [0, 0, 0, 0, 255]
    assert (centres[1] == 255).all()  # nothing is blue
    assert (seen.all_codes == 1).sum(1).tolist() == [1, 1, 1, 1, 0, 0]


def test_random_codes_are_seen_ones_and_seeded():
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    first = nearest_patches(colours(), [pixels], rows=2, columns=3, size=6, seed=1)
    assert set(first.codes) <= set(first.all_codes.unique().tolist()) and len(first.codes) == 2
    again = nearest_patches(colours(), [pixels], rows=2, columns=3, size=6, seed=1)
    assert first.codes == again.codes and torch.equal(first.patches, again.patches)
    with pytest.raises(DigitError, match="no pictures"):
        nearest_patches(colours(), [])


def test_pictures_are_encoded_once():
    tokenizer, calls = colours(), []
    forward = tokenizer.encoder.forward
    tokenizer.encoder.forward = lambda pixels: (calls.append(len(pixels)), forward(pixels))[1]
    pixels = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    seen = nearest_patches(tokenizer, pixels.split(2))
    assert calls == [2, 2, 1]
    assert torch.equal(seen.all_codes, tokenizer.encode(pixels))

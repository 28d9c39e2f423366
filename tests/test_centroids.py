"""A set of pictures -> centroids: the plan, and the tokenizer in memory that is `digit fit`'s."""

import pytest
import torch

import digit
from digit.errors import DigitError
from digit.features import Encoder, encoder_config


@pytest.fixture(scope="module")
def encoder(chain):
    settings = {"arguments": chain.fitted["encoder_arguments"]}
    return Encoder(encoder_config("vit_tiny_patch16_224", 16, **settings), chain.fitted["encoder_weights"])


def test_a_tokenizer_fitted_in_memory_is_that_of_digit_fit(chain, encoder, tmp_path):
    how = {"clusters": 8, "per_cluster": 64, "iterations": 5}
    fitted = digit.Tokenizer.fit(chain.images, encoder=encoder, **how)
    file = digit.load(chain.root / "tokenizer")
    assert torch.equal(fitted.centroids, file.centroids) and fitted.size == file.size == 16
    again = digit.Tokenizer.fit(digit.open_images(chain.images), encoder=encoder, size=20, **how)
    assert again.size == 20 and not torch.equal(again.centroids, fitted.centroids)
    digit.save(again, tmp_path / "saved")  # pictures are read at the size that it was fitted on
    assert digit.load(tmp_path / "saved").size == 20


def test_more_clusters_than_vectors_are_refused_before_anything_is_read(chain, encoder):
    with pytest.raises(DigitError, match="clusters 9999 is more than the 1536 feature vectors"):
        digit.Tokenizer.fit(chain.images, encoder=encoder, clusters=9999)
    with pytest.raises(DigitError, match="timm knows no size for the encoder 'nobody'"):
        digit.Tokenizer.fit(chain.images, encoder="nobody")

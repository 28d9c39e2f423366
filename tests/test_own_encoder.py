"""digit.own_encoder: any torch module makes a tokenizer, in memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import digit
from digit.errors import DigitError
from digit.own_encoder import OwnEncoder


class Colours(nn.Module):
    """Mean colours of 4 x 4 patches; nothing to learn, so that there is no parameter either."""

    image_size = 16

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(pixels, 4).flatten(2).mT


class Wrong(nn.Module):
    image_size = 16

    def __init__(self, given: object) -> None:
        super().__init__()
        self.given = given

    def forward(self, pixels: torch.Tensor) -> object:
        return self.given(pixels) if callable(self.given) else self.given


def test_any_torch_module_makes_a_tokenizer(chain):
    tokenizer = digit.Tokenizer.fit(chain.images, encoder=Colours(), clusters=5, per_cluster=64)
    assert (tokenizer.grid, tokenizer.length, tokenizer.size) == (4, 16, 16)
    pixels = torch.rand(3, 3, 32, 32)
    codes = tokenizer.encode((pixels * 255).to(torch.uint8))
    # Which pictures are read, and that K-means ran, shows in codes: each is the nearest centroid's.
    features = Colours()(F.interpolate((pixels * 255).to(torch.uint8) / 255, size=16, mode="bicubic"))
    assert torch.equal(codes, torch.cdist(features, tokenizer.centroids.expand(3, -1, -1)).argmin(-1))
    assert tokenizer.encoder.flops >= 0 and "Colours at 16 px" in repr(tokenizer)


def test_a_module_keeps_its_gradients_and_is_in_evaluation():
    module = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.Dropout(), nn.Flatten(2))
    own = nn.Module()
    own.net, own.image_size = module, 8
    own.forward = lambda pixels: module(pixels).mT
    encoder = OwnEncoder(own.train()).train()
    assert (encoder.width, encoder.tokens) == (6, 4) and not module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(encoder(torch.ones(1, 3, 8, 8)), encoder(torch.ones(1, 3, 8, 8)))


def test_what_is_no_encoder_is_one_sentence():
    for words, given in {
        "Wrong gave list for one picture": [],
        r"gave \(1, 4, 3\) for one picture": torch.zeros(1, 4, 3, dtype=torch.int64),
        "gives 3 vectors of a picture, which fill no square": torch.zeros(1, 3, 2),
        "fails on pictures of 16 px": lambda pixels: pixels.view(7),
    }.items():
        with pytest.raises(DigitError, match=words):
            OwnEncoder(Wrong(given))
    with pytest.raises(DigitError, match="give it an image_size"):
        OwnEncoder(nn.Identity())
    with pytest.raises(DigitError, match="encoder: give a text or an Encoder or a Module, not 3"):
        digit.Tokenizer.fit("anywhere", encoder=3)  # pyright: ignore[reportArgumentType]


def test_its_tokenizer_is_not_saved_and_nothing_is_written(chain, tmp_path):
    tokenizer = digit.Tokenizer.fit(chain.images, encoder=Colours(), clusters=5, per_cluster=64)
    with pytest.raises(DigitError, match=r"cannot be saved, since artifacts hold no code.* module:object"):
        digit.save(tokenizer, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()

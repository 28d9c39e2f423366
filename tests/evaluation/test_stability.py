"""digit.evaluation.stability: values that can be worked out by hand, any tokenizer, any batch."""

import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.perturbations import NOISE, Perturbation
from digit.evaluation.stability import CHANGE, FEATURES, PAPER, VECTORS, as_tokenizer, stability
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig

PIXELS = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class OnlyCodes:
    """The least that is measured: is a quarter of the picture bright?"""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return (torch.nn.functional.avg_pool2d(pixels.mean(1), 8).flatten(1) > 0.5).long()


class Whole(OnlyCodes):
    codes = 4

    def vectors(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0], [0.0, 1.0]])[codes]  # orthogonal: a change has cosine 0

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(pixels), 4, 3)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.full((len(codes), 3, 16, 16), 0.5)


def test_a_change_that_is_known():
    pixels = torch.full((2, 3, 16, 16), 0.4)
    pixels[:, :, :8] = 0.6  # two codes of each kind; half the brightness leaves none above 0.5
    how = [Perturbation("brightness", 0.5), Perturbation("brightness", 1.0)]
    values = dict(stability(Whole(), [pixels], perturbations=how))
    assert values[f"{CHANGE}, brightness x 0.5"] == 0.5
    assert values[f"{VECTORS}, brightness x 0.5"] == 0.5
    assert values[f"{FEATURES}, brightness x 0.5"] == pytest.approx(1)
    assert values[f"{CHANGE}, brightness x 1"] == 0
    assert values[f"{VECTORS}, brightness x 1"] == pytest.approx(1)
    assert values["PSNR"] == pytest.approx(20)  # every pixel is 0.1 off
    assert values["sharpness"] == 0  # grey has no edges
    assert (values["used codes"], values["codes"], values["usage"]) == (2, 4, 0.5)
    assert values["entropy, bits"] == pytest.approx(1)


def test_encode_alone_is_enough():
    values = dict(stability(OnlyCodes(), [PIXELS], perturbations=NOISE))
    assert [name for name in values if not name.startswith(CHANGE)] == ["used codes", "entropy, bits"]


def test_the_batch_changes_nothing():
    tokenizer = as_tokenizer(tiny_vqgan())
    one = dict(stability(tokenizer, [PIXELS]))
    for size in (1, 4):
        assert dict(stability(tokenizer, PIXELS.split(size))) == pytest.approx(one, abs=1e-6)
    assert dict(stability(tokenizer, [PIXELS], seed=1)) != one


def tiny_vqgan() -> VQGAN:
    torch.manual_seed(0)
    config = VQGANConfig(image_size=16, width=8, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4)
    vqgan = VQGAN(config).eval()
    with torch.no_grad():
        vqgan.quantize.embedding.weight.normal_()
    return vqgan


def test_a_vqgan_is_read_as_it_encodes():
    vqgan = tiny_vqgan()
    tokenizer = as_tokenizer(vqgan)
    with torch.no_grad():
        codes = vqgan.encode(PIXELS)
        assert torch.equal(tokenizer.nearest(tokenizer.features(PIXELS)), codes)
        again = vqgan.decode(codes)
    values = dict(stability(tokenizer, [PIXELS], perturbations=NOISE[:1]))
    assert values["PSNR"] == pytest.approx(float(-10 * (again - PIXELS).square().mean().log10()), abs=1e-4)
    assert values["codes"] == 16


def test_a_tokenizer_of_digit_without_noise_keeps_every_code(chain):
    from digit.weights.artifact import load

    tokenizer = load(chain.root / "tokenizer")
    still = Perturbation("brightness", 1.0)
    values = dict(stability(as_tokenizer(tokenizer), [PIXELS], perturbations=[still, NOISE[-1]]))
    assert values[f"{CHANGE}, {still.name}"] == 0
    assert values[f"{VECTORS}, {still.name}"] == pytest.approx(1)
    assert 0 < values[f"{CHANGE}, {NOISE[-1].name}"] <= 1
    assert values[f"{FEATURES}, {NOISE[-1].name}"] < 1
    assert "PSNR" not in values
    assert values["codes"] == 8


def test_bad_tokenizers_are_refused():
    class Flat(OnlyCodes):
        def encode(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().encode(pixels).flatten()

    class Small(OnlyCodes):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(codes), 3, 8, 8)

    with pytest.raises(DigitError, match="one row of codes per picture"):
        dict(stability(Flat(), [PIXELS]))
    with pytest.raises(DigitError, match="own size"):
        dict(stability(Small(), [PIXELS]))
    with pytest.raises(DigitError, match="no pictures"):
        dict(stability(OnlyCodes(), []))


def test_the_papers_rows_fall_and_rise_as_printed():
    for rows in PAPER.values():
        assert list(rows[CHANGE]) == sorted(rows[CHANGE])
        assert list(rows[VECTORS]) == sorted(rows[VECTORS], reverse=True)

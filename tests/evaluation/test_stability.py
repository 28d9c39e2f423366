"""digit.evaluation.stability: values that can be worked out by hand, any tokenizer, any batch."""

import math

import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.stability import (
    ALL,
    CHANGE,
    FEATURES,
    NOISE,
    PAPER,
    SNRS,
    VECTORS,
    Perturbation,
    as_tokenizer,
    perturb,
    stability,
)
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


LARGE = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def grey(level: float = 0.5) -> torch.Tensor:
    return torch.full((1, 3, 64, 64), level)


@pytest.mark.parametrize("how", ALL, ids=lambda how: how.name)
def test_pixels_stay_pixels_and_do_change(how):
    again = perturb(LARGE, how, range(3))
    assert again.shape == LARGE.shape
    assert again.dtype == LARGE.dtype
    assert again.min() >= 0
    assert again.max() <= 1
    assert not torch.equal(again, LARGE)


@pytest.mark.parametrize("snr", [30, 20, 15])
def test_noise_has_the_power_that_the_ratio_asks_for(snr):
    noise = perturb(grey(), Perturbation("noise", snr), [0]) - grey()
    assert 10 * math.log10(0.25 / float(noise.square().mean())) == pytest.approx(snr, abs=0.15)
    assert abs(float(noise.mean())) < 0.01


def test_power_is_each_pictures_own():
    both = torch.cat((grey(0.2), grey(0.6)))
    noise = (perturb(both, Perturbation("noise", 25), [4, 4]) - both).double().square().mean((1, 2, 3))
    assert float(noise[1] / noise[0]) == pytest.approx(9, rel=1e-3)


def test_noise_belongs_to_the_picture_not_to_its_batch():
    how = Perturbation("noise", 20)
    whole = perturb(LARGE, how, [5, 6, 7])
    assert torch.equal(whole[1:2], perturb(LARGE[1:2], how, [6]))
    assert not torch.equal(whole[1:2], perturb(LARGE[1:2], how, [5]))
    assert not torch.equal(whole, perturb(LARGE, how, [5, 6, 7], seed=1))


def test_more_noise_is_farther_away():
    distances = [float((perturb(LARGE, how, range(3)) - LARGE).square().mean()) for how in NOISE]
    assert distances == sorted(distances)
    assert len(SNRS) == 8


def test_blur_keeps_a_flat_picture_and_spreads_a_point_evenly():
    torch.testing.assert_close(perturb(grey(), Perturbation("blur", 2), [0]), grey())
    point = torch.zeros(1, 3, 33, 33)
    point[..., 16, 16] = 1
    spread = perturb(point, Perturbation("blur", 2), [0])
    assert float(spread[0, 0].sum()) == pytest.approx(1, abs=1e-5)
    steps = torch.arange(33.0) - 16
    assert float((spread[0, 0].sum(0) * steps**2).sum()) == pytest.approx(4, rel=0.05)  # variance, px squared
    torch.testing.assert_close(spread, spread.transpose(2, 3))


def test_shift_moves_right_and_down():
    moved = perturb(LARGE, Perturbation("shift", 4), range(3))
    assert torch.equal(moved[:, :, 4:, 4:], LARGE[:, :, :-4, :-4])
    assert torch.equal(moved[:, :, 0, 0], LARGE[:, :, 0, 0])


def test_jpeg_of_less_quality_is_farther_away():
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32) * LARGE[:1]
    far = [float((perturb(ramp, Perturbation("jpeg", q), [0]) - ramp).square().mean()) for q in (95, 50, 10)]
    assert far == sorted(far)
    assert far[0] < far[2]


def test_what_cannot_be_done_is_refused():
    for kind, strength in (
        ("blur", 0),
        ("jpeg", 0),
        ("jpeg", 101),
        ("shift", 1.5),
        ("shift", 32),
        ("brightness", -1),
    ):
        with pytest.raises(DigitError, match=f"{kind} of"):
            perturb(LARGE, Perturbation(kind, strength), range(3))
    with pytest.raises(DigitError, match="2 indices for 3 pictures"):
        perturb(LARGE, NOISE[0], [0, 1])

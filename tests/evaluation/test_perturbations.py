import math

import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.perturbations import ALL, NOISE, SNRS, Perturbation, perturb

PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def grey(level: float = 0.5) -> torch.Tensor:
    return torch.full((1, 3, 64, 64), level)


@pytest.mark.parametrize("how", ALL, ids=lambda how: how.name)
def test_pixels_stay_pixels_and_do_change(how):
    again = perturb(PIXELS, how, range(3))
    assert again.shape == PIXELS.shape
    assert again.dtype == PIXELS.dtype
    assert again.min() >= 0
    assert again.max() <= 1
    assert not torch.equal(again, PIXELS)


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
    whole = perturb(PIXELS, how, [5, 6, 7])
    assert torch.equal(whole[1:2], perturb(PIXELS[1:2], how, [6]))
    assert not torch.equal(whole[1:2], perturb(PIXELS[1:2], how, [5]))
    assert not torch.equal(whole, perturb(PIXELS, how, [5, 6, 7], seed=1))


def test_more_noise_is_farther_away():
    distances = [float((perturb(PIXELS, how, range(3)) - PIXELS).square().mean()) for how in NOISE]
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
    moved = perturb(PIXELS, Perturbation("shift", 4), range(3))
    assert torch.equal(moved[:, :, 4:, 4:], PIXELS[:, :, :-4, :-4])
    assert torch.equal(moved[:, :, 0, 0], PIXELS[:, :, 0, 0])


def test_jpeg_of_less_quality_is_farther_away():
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32) * PIXELS[:1]
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
            perturb(PIXELS, Perturbation(kind, strength), range(3))
    with pytest.raises(DigitError, match="2 indices for 3 pictures"):
        perturb(PIXELS, NOISE[0], [0, 1])

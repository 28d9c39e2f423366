"""What trainings are made of, measured by and shown with."""

import numpy as np
import pytest
import torch

from digit.data.codes import Codes
from digit.errors import DigitError
from digit.run import stages
from digit.run.dry_run import DryRun
from digit.training.config import TrainConfig
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig, VQGANLossConfig
from digit.vqgan_loss import VQGANLoss


def test_first_weights_are_those_of_the_seed_and_outside_nothing_happens():
    config = TrainConfig(steps=1, batch=1, seed=3)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = stages.build(lambda: torch.nn.Linear(4, 4), config, DryRun())
    assert torch.equal(torch.rand(3), expected)
    again = stages.build(lambda: torch.nn.Linear(4, 4), config, DryRun())
    assert torch.equal(first.weight, again.weight)
    assert stages.build(lambda: torch.nn.Linear(4, 4), config, DryRun(dry_run=True)).weight.is_meta


def test_a_large_stage_says_what_it_takes_before_memory_is_taken(monkeypatch, capsys):
    def make(width: int):
        return lambda: torch.nn.Linear(width, width, bias=False)

    config = TrainConfig(steps=1, batch=1)
    stages.build(make(4), config, DryRun())
    assert capsys.readouterr().err == ""
    stages.build(make(50_000), config, DryRun(dry_run=True))
    assert (
        "the stage has 2,500,000,000 parameters, 40 GB with gradients and moments" in capsys.readouterr().err
    )
    for plan in (DryRun(), DryRun(dry_run=True)):
        with pytest.raises(DigitError, match=r"1,000,000,000,000 parameters, 16,000 GB .* fewer layers"):
            stages.build(make(10**6), config, plan)


def test_reconstruction_error_is_that_of_all_pictures(monkeypatch):
    pixels = torch.full((130, 3, 4, 4), 51, dtype=torch.uint8)  # more than are decoded at once
    shape = VQGANConfig(image_size=4, width=8, multipliers=(1, 1), blocks=1, codes=8, code_dim=4)
    loss = VQGANLoss(VQGAN(shape), VQGANLossConfig(perceptual=None), None)
    monkeypatch.setattr(loss.vqgan, "encode", lambda real: torch.zeros(len(real), 4, dtype=torch.int64))
    monkeypatch.setattr(loss.vqgan, "decode", lambda codes: torch.full((len(codes), 3, 4, 4), 0.3))
    found = dict(stages.reconstruction_error(pixels, torch.device("cpu"))(loss, 0))
    assert found["held_out_psnr"] == pytest.approx(20.0, abs=1e-4)  # 51 / 255 is 0.1 off
    assert found["held_out_usage"] == 1 / 8


def test_equal_codes_have_one_colour():
    codes = torch.tensor([[0, 1, 1, 0]])
    picture = np.asarray(stages.code_map(codes, 2))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 3  # two codes, and the white around them
    with pytest.raises(DigitError, match="no square"):
        stages.code_map(torch.zeros(1, 3, dtype=torch.int64), 2)


def test_a_prior_has_the_classes_of_its_codes_or_none(chain):
    codes = Codes(chain.root / "codes")
    assert stages.classes_of(codes, True, None) == ["blue", "green", "red"]
    assert stages.classes_of(codes, False, None) == []
    codes.labels = None
    assert stages.classes_of(codes, True, None) == []
    with pytest.raises(DigitError, match="take recipe base"):
        stages.classes_of(codes, True, "base_cond")

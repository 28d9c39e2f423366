"""Settings of a training: what cannot be meant is refused before anything is read."""

import subprocess
import sys

import pytest

from digit.errors import DigitError
from digit.training.config import OptimizerConfig, TrainConfig, accumulation


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"ema": 1.0}, {"clip": 0.0}, {"micro_batch": 0}, {"keep": 0}, {"skips": 0}]
)
def test_settings_that_cannot_be_meant(wrong):
    (name,) = wrong
    with pytest.raises(DigitError, match=name):
        TrainConfig(**{"steps": 17, "batch": 6} | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"min_lr": 1.0},
        {"betas": (0.9, 1.0)},
        {"warmup": 0},
        {"kind": "sgd", "betas": (0.0, 0.9)},
    ],
)
def test_optimizers_that_cannot_be_meant(wrong):
    with pytest.raises(DigitError, match=list(wrong)[-1]):
        OptimizerConfig(**wrong)


def test_a_batch_is_shared_evenly_or_refused():
    config = TrainConfig(steps=1, batch=12, micro_batch=5)
    assert [accumulation(config, processes) for processes in (1, 2, 4)] == [3, 2, 1]
    with pytest.raises(DigitError, match="does not divide among 5 processes"):
        accumulation(config, 5)


def test_settings_are_readable_without_torch():
    code = "import sys; import digit.training.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""The loss curve of a tiny prior is a committed file; whatever makes training faster must follow it."""

import json
from pathlib import Path

import pytest
import torch

import digit.prior
from digit.fast import training
from digit.nn.batch import CodeBatch
from digit.prior import Prior, PriorConfig
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.update import Updater

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures/training_curve.json").read_text())


def batch(step: int) -> CodeBatch:
    """Codes that mostly follow from the code before."""
    generator = torch.Generator().manual_seed(step)
    codes = torch.randint(50, (16, 12), generator=generator)
    kept = torch.rand(16, 12, generator=generator) < 0.8
    for place in range(1, 12):
        follows = (codes[:, place - 1] * 7 + 3) % 50
        codes[:, place] = torch.where(kept[:, place], follows, codes[:, place])
    return CodeBatch(codes, torch.randint(3, (16,), generator=generator))


def curve(norm: str, precision: str = "fp32") -> list[float]:
    torch.manual_seed(0)
    shape = PriorConfig(codes=50, length=12, classes=3, width=32, layers=2, heads=2, norm=norm)
    adam = OptimizerConfig(lr=3e-3, warmup=10)
    config = TrainConfig(steps=60, batch=16, optimizer=adam, precision=precision)
    updater = Updater(Prior(shape), config, torch.device("cpu"))
    for step in range(60):
        updater.update(batch(step))
    updater.read_losses("none")
    return updater.losses


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_training_follows_the_golden_curve(norm):
    losses = curve(norm)
    assert losses[-1] < losses[0] - 1
    torch.testing.assert_close(losses, GOLDEN[norm], rtol=2e-4, atol=0)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_fast_path_follows_it_too(norm, monkeypatch):
    """A residual stream in bfloat16 and the gradient made with the loss, as on a GPU."""
    monkeypatch.setattr(digit.prior, "stream", lambda x: x.bfloat16())
    monkeypatch.setattr(Prior, "cross_entropy", staticmethod(training.cross_entropy))
    monkeypatch.setattr(training, "fused", lambda hidden: True)
    losses = curve(norm, "bf16")
    assert max(abs(a - b) for a, b in zip(losses, GOLDEN[norm], strict=True)) < 0.02

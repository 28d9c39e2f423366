"""Asking for training kernels: they are switched on, or one sentence says why not."""

import importlib.util

import pytest
import torch

from digit.errors import DigitError
from digit.prior import Prior, PriorConfig
from digit.training.config import TrainConfig
from digit.training.kernels import use_kernels
from digit.training.update import Updater

GPU = torch.device("cuda")


def prior(norm="post"):
    return Prior(PriorConfig(8, 4, width=8, layers=1, heads=2, norm=norm))


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_they_are_switched_on_for_one_stage():
    stage, other = prior(), prior()
    use_kernels(stage, GPU, bf16=True, sharded=False)
    assert stage.transformer.kernels and not other.transformer.kernels


@pytest.mark.parametrize(
    ("stage", "changes", "reason"),
    [
        (prior(), {"device": torch.device("cpu")}, "need a GPU"),
        (prior(), {"bf16": False}, "precision is fp32"),
        (prior(), {"sharded": True}, "sharded"),
        (prior("pre"), {}, "pre-norm"),
        (torch.nn.Linear(2, 2), {}, "no transformer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sentence_says_why_not(stage, changes, reason):
    given = {"device": GPU, "bf16": True, "sharded": False} | changes
    with pytest.raises(DigitError, match=f"kernels cannot be used, .*{reason}.*: leave --kernels out"):
        use_kernels(stage, given.pop("device"), **given)


def test_old_cards_and_missing_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DigitError, match="Triton is not installed"):
        use_kernels(prior(), GPU, bf16=True, sharded=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(DigitError, match="computes in bf16"):
        use_kernels(prior(), GPU, bf16=True, sharded=False)


def test_a_training_that_asks_for_them_on_a_cpu_does_not_begin():
    with pytest.raises(DigitError, match="need a GPU"):
        Updater(prior(), TrainConfig(steps=1, batch=2, kernels=True), torch.device("cpu"))

"""Training kernels are switched on, or a few words say why not."""

import importlib.util

import pytest
import torch

from digit.prior import Prior, PriorConfig
from digit.training.kernels import use

GPU = torch.device("cuda")


def prior(norm="post"):
    return Prior(PriorConfig(8, 4, width=8, layers=1, heads=2, norm=norm))


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_they_are_switched_on_for_one_stage():
    stage, other = prior(), prior()
    assert use(stage, GPU, bf16=True, sharded=False) is None
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
    assert reason in (use(stage, given.pop("device"), **given) or "")


def test_old_cards_and_missing_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert use(prior(), GPU, bf16=True, sharded=False) == "Triton is not installed"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "computes in bf16" in (use(prior(), GPU, bf16=True, sharded=False) or "")

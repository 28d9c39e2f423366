import torch

from digit.evaluation import selftest
from digit.evaluation.selftest import Check, checks


def test_every_check_passes_here():
    found = list(checks())
    assert [check.name for check in found if not check.passed] == []
    assert len(found) >= 10


def test_the_checks_see_a_wrong_distance(monkeypatch):
    right = selftest.frechet_distance
    monkeypatch.setattr(selftest, "frechet_distance", lambda a, b: right(a, b) + 0.01)
    monkeypatch.setattr(selftest, "_fidelity", lambda *given: iter(()))
    failed = [check.name for check in checks() if not check.passed]
    assert failed == [
        "Fréchet distance of Gaussians, closed form",
        "Fréchet distance of a set to itself",
    ]


def test_without_torch_fidelity_its_checks_are_left_out(monkeypatch):
    def absent(name: str):
        raise ImportError(name)

    monkeypatch.setattr(selftest.importlib, "import_module", absent)
    left_out = list(selftest._fidelity(torch.Generator(), torch.device("cpu")))
    assert [(check.error, check.passed) for check in left_out] == [(None, True)]
    assert not Check("nan", float("nan"), 1.0).passed

"""`digit evaluate selftest`: its table and its exit code."""

import torch

from digit.evaluation import selftest as checking


def test_the_selftest_passes_here_and_says_what_fails(run, json_of, monkeypatch):
    kept = list(checking._closed_forms(torch.Generator().manual_seed(0), torch.device("cpu")))
    monkeypatch.setattr(checking, "checks", lambda device: kept)
    code, out, err = run("evaluate", "selftest", "--device", "cpu", "--json")
    assert code == 0, err
    assert len(json_of(out)["values"]) == len(kept) >= 6
    wrong = checking.Check("two and two", 1.0, 1e-3)
    absent = checking.Check("what is not here", None, 1e-3)
    monkeypatch.setattr(checking, "checks", lambda device: [*kept, absent, wrong])
    code, out, err = run("evaluate", "selftest", "--device", "cpu")
    assert code == 2
    assert "two and two (1)" in err
    assert "left out" in out and "FAILED" in out

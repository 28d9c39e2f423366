"""`digit evaluate compare` and `selftest`: their tables, what is refused, and exit codes."""

import json

import pytest
import torch

from digit.evaluation import selftest as checking
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.weights.artifact import save


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    config = ClassifierConfig(classes=3, width=4, image_size=16)
    save(Classifier(config), tmp_path / "c", classes=["blue", "green", "red"])
    return f"classifier:{tmp_path / 'c'}"


def test_two_results_side_by_side(chain, run, tmp_path, json_of, classifier):
    files = []
    for name, features in (("a", classifier), ("b", classifier)):
        files.append(tmp_path / f"{name}.json")
        call = ("--samples", chain.images, "--reference", chain.images, "--features", features, "--few")
        assert run("evaluate", "images", *call, "--out", files[-1])[0] == 0
    changed = json.loads(files[1].read_text())
    name = next(name for name in changed["values"] if name.startswith("FD"))
    changed["values"][name] += 1.5
    changed["values"]["new"] = None
    files[1].write_text(json.dumps(changed))
    code, out, err = run("evaluate", "compare", *files, "--json")
    assert code == 0, err
    rows = json_of(out)["values"]
    assert rows[name]["difference"] == pytest.approx(1.5)
    assert rows["new"] == {"a": None, "b": None, "difference": None}
    assert "FD on classifier" in err and "076e9f16" not in err  # names for people
    changed["features"][0]["sha256"] = "1" * 64
    files[1].write_text(json.dumps(changed))
    code, out, err = run("evaluate", "compare", *files)
    assert (code, out) == (2, "")
    assert "their features differ" in err


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

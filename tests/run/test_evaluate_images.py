"""The verbs evaluate images, compare and selftest, and `digit sample --npz`."""

import json

import numpy as np
import pytest
import torch

from digit.evaluation import selftest as checking
from digit.evaluation.networks import INCEPTION, Network
from digit.evaluation.protocols import CONDITIONAL, UNCONDITIONAL
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.run import evaluate
from digit.run import selftest as verb
from digit.weights.artifact import save


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    config = ClassifierConfig(classes=3, width=4, image_size=16)
    save(Classifier(config), tmp_path / "c", classes=["blue", "green", "red"])
    return f"classifier:{tmp_path / 'c'}"


def test_samples_in_an_npz_are_those_in_the_folder_and_all_classes_take_turns(
    chain, run, tmp_path, json_of, classifier
):
    npz = tmp_path / "s.npz"
    code, _, err = run(
        "sample", chain.root / "model", "--num", 9, "--batch", 4, "--out", tmp_path / "s", "--npz", npz
    )
    assert code == 0, err
    with np.load(npz) as arrays:
        assert arrays["arr_0"].shape == (9, 16, 16, 3)
        assert arrays["arr_1"].tolist() == [0, 1, 2] * 3  # balanced
    values = []
    for samples in (tmp_path / "s", npz):
        call = (
            "--samples",
            samples,
            "--reference",
            chain.images,
            "--features",
            classifier,
            "--few",
            "--json",
        )
        code, out, err = run("evaluate", "images", *call, "--metrics", "fd", "precision_recall", "kd")
        assert code == 0, err
        values.append(json_of(out)["values"])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert len(values[0]) == 5
    code, _, err = run("sample", chain.root / "model", "--num", 2, "--out", tmp_path / "t", "--npz", "s.zip")
    assert (code, "ends in .npz" in err) == (2, True)


def test_the_papers_rows_stand_beside_fid(chain, run, tmp_path, json_of, monkeypatch):
    def forward(pixels: torch.Tensor):
        means = pixels.mean((2, 3))
        return means, means, means

    network = Network(INCEPTION, "0" * 64, torch.nn.Identity(), forward)
    monkeypatch.setattr(evaluate, "open_network", lambda *spec, **options: network)
    sets = ("--samples", chain.images, "--reference", chain.images, "--few")
    code, out, err = run("evaluate", "images", *sets, "--paper", "--json", "--out", tmp_path / "r.json")
    assert code == 0, err
    value = json_of(out)
    assert set(value["values"]) == {"FID", "sFID", "IS", "IS deviation"}
    assert len(value["paper"]["rows"]) == len(UNCONDITIONAL + CONDITIONAL) == 32
    assert "DiGIT (+VQGAN) 732M" in err
    assert "205.96" in err
    assert "paper" not in json.loads((tmp_path / "r.json").read_text())
    code, out, err = run("evaluate", "images", *sets, "--protocol", "digit-paper")
    assert (code, "takes 256 px samples" in err) == (2, True)
    code, out, err = run("evaluate", "images", *sets, "--protocol", "adm", "--json")
    assert code == 0, err
    assert json_of(out)["protocol"].startswith("adm: ")


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
    assert name in err
    changed["features"][0]["sha256"] = "1" * 64
    files[1].write_text(json.dumps(changed))
    code, out, err = run("evaluate", "compare", *files)
    assert (code, out) == (2, "")
    assert "their features differ" in err


def test_the_selftest_passes_here_and_says_what_fails(run, json_of, monkeypatch):
    kept = list(checking._closed_forms(torch.Generator().manual_seed(0), torch.device("cpu")))
    monkeypatch.setattr(verb, "checks", lambda device: kept)
    code, out, err = run("evaluate", "selftest", "--device", "cpu", "--json")
    assert code == 0, err
    assert len(json_of(out)["values"]) == len(kept) >= 6
    wrong = checking.Check("two and two", 1.0, 1e-3)
    absent = checking.Check("what is not here", None, 1e-3)
    monkeypatch.setattr(verb, "checks", lambda device: [*kept, absent, wrong])
    code, out, err = run("evaluate", "selftest", "--device", "cpu")
    assert (code, out) == (2, "")
    assert "two and two (1)" in err
    assert "left out" in err

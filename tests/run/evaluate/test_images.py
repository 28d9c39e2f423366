"""`digit evaluate images`: its values, table, caveat and file; and `digit sample --npz`."""

import json
from typing import Literal, get_args

import numpy as np
import pytest
import torch

from digit.evaluation.networks import INCEPTION, Network
from digit.evaluation.protocols import ALL, CONDITIONAL, UNCONDITIONAL
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.run.evaluate import measurement
from digit.run.evaluate.images import evaluate_images
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
    monkeypatch.setattr(measurement, "open_network", lambda *spec, **options: network)
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


def test_people_get_a_table_a_caveat_and_the_files_name(chain, run, saved_in, tmp_path, classifier):
    call = ("--samples", chain.images, "--reference", chain.images, "--features", classifier, "--few")
    code, out, err = run("evaluate", "images", *call, "--out", tmp_path / "r")
    assert code == 0, err
    assert "48 pictures of pictures.zip against 48 of pictures.zip (protocol own)" in out
    rows = {line.split("  ")[0]: line.split()[-1] for line in out.splitlines() if " on classifier" in line}
    assert rows["FD on classifier"] == "lower"
    assert rows["class accuracy on classifier"] == rows["IS on classifier"] == "higher"
    assert "48 pictures: not comparable with distances of 50,000" in out
    assert saved_in(out) == ["images.json"]
    code, out, err = run("evaluate", "images", *call)
    assert "not kept: --out FOLDER" in out and not saved_in(out)


def test_a_reference_that_digit_drew_counts_without_its_grid(chain, run, tmp_path, json_of, classifier):
    drawn = tmp_path / "s"
    assert run("sample", chain.root / "model", "--num", 4, "--out", drawn)[0] == 0
    call = ("--samples", drawn, "--reference", drawn, "--features", classifier, "--few", "--json")
    code, out, err = run("evaluate", "images", *call)
    assert code == 0, err
    value = json_of(out)
    assert value["counts"] == {"samples": 4, "reference": 4}
    distance = next(number for name, number in value["values"].items() if name.startswith("FD"))
    assert abs(distance) < 1e-4  # of a set to itself


def test_every_metric_can_be_asked_for():
    assert get_args(get_args(evaluate_images.__annotations__["metrics"])[0])[0] == Literal[ALL]

"""`digit evaluate prefix`: distances by the length of a real prefix, its table, plot and record."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from digit.evaluation.result import read_result
from digit.nn.sampling import DRAW
from digit.pipeline import DigitPipeline


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)


def test_evaluate_prefix(chain, places, run, saved_in, tmp_path):
    call = ("evaluate", "prefix", chain.root / "model", places / "vq", "--images", chain.images)
    call += ("--prefix", 0, 8, 16, "--features", f"classifier:{places / 'net'}")
    code, _, err = run(*call)
    assert code == 2 and "48 pictures, too few" in err
    code, out, err = run(*call, "--few", "--num", 20, "--batch", 8, "--out", tmp_path / "r", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert value["counts"] == {"samples": 20, "reference": 20}
    assert [(p["model"], p["prefix"], p["share"]) for p in value["points"]] == [
        (model, n, n / 16) for model in ("model", "vq") for n in (0, 8, 16)
    ]
    assert value["settings"]["drawn"]["model"]["classes"] and not value["settings"]["drawn"]["vq"]["classes"]
    assert len(value["settings"]["models"]["vq"]) == 2
    assert value["settings"]["draw"] == value["settings"]["drawn"]["vq"]["draw"] == DRAW
    written = read_result(tmp_path / "r" / "prefix.json")
    assert written["values"] == value["values"]
    assert pixels_of(tmp_path / "r" / "prefix.png").shape[1] > 500
    assert "figure 4b" in value["paper"]
    assert saved_in(err) == ["prefix.json", "prefix.png"]
    assert "20 pictures of pictures.zip completed from their first codes" in err
    assert "FD on classifier" in err and "20 pictures: not comparable" in err
    assert [line.split()[:5] for line in err.splitlines() if line.startswith("vq, ")] == [
        ["vq,", f"{n}", "of", "16", f"{n / 16:.0%}"] for n in (0, 8, 16)
    ]


def test_all_codes_of_a_vq_only_model_are_its_reconstruction(chain, places, run):
    """The far end of the curve, measured another way: pixels through the VQGAN."""
    from digit.data.images import open_images
    from digit.data.loader import load_pixels
    from digit.evaluation.images import compare
    from digit.evaluation.measure import measure
    from digit.evaluation.networks import open_network
    from digit.evaluation.pictures import open_pictures
    from digit.rendering import to_uint8

    call = (places / "vq", "--images", chain.images, "--prefix", 16, "--few", "--json")
    code, out, err = run("evaluate", "prefix", *call, "--features", f"classifier:{places / 'net'}")
    assert code == 0, err
    network = open_network(f"classifier:{places / 'net'}")
    model = DigitPipeline.from_pretrained(places / "vq")
    source = open_images(chain.images)
    _, pixels = load_pixels(source, np.arange(len(source)), 16)
    with torch.no_grad():
        again = to_uint8(model.vqgan.decode(model.vqgan.encode(pixels.float() / 255)))
    here, there = (measure(open_pictures(each), [network])[0] for each in (again, pixels))
    expected = dict(compare(network, here, there, metrics=["fd"]))[network.metric("FD")]
    found = json.loads(out)["points"][0]["values"][network.metric("FD")]
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prefix", 17), "at most 16 codes"),
        (("--prefix", 4, "--num", 0), "--num: 0 is out of bounds"),
        (("--prefix", 4, "--top-p", 2), "--top-p: 2 is out of bounds"),
        (("--prefix", 4, "--unconditional", "--guidance", 2), "--guidance 2"),
    ],
)
def test_what_evaluating_refuses(chain, places, run, tmp_path, options, words):
    call = (chain.root / "model", "--images", chain.images, "--few", "--out", tmp_path / "r")
    code, out, err = run("evaluate", "prefix", *call, *options, "--features", f"classifier:{places / 'net'}")
    assert code == 2 and words in err
    assert not out and not list(tmp_path.rglob("*.json"))


def test_points_that_are_done_stay_and_new_ones_join(chain, places, run, tmp_path, monkeypatch):
    from digit.prior import Prior

    drawn = []
    whole = Prior.sample

    def counted(self, seeds, *given, **named):
        drawn.append(named["prefix"].shape[1])
        return whole(self, seeds, *given, **named)

    monkeypatch.setattr(Prior, "sample", counted)
    call = ("--images", chain.images, "--few", "--num", 12, "--json")
    call += ("--features", f"classifier:{places / 'net'}")
    verb, model = ("evaluate", "prefix"), chain.root / "model"
    first = ("--prefix", 0, 16)
    code, _, err = run(*verb, model, *call, *first, "--out", tmp_path / "r")
    assert code == 0, err
    assert sorted(drawn) == [0, 16]
    code, out, err = run(*verb, places / "vq", *call, "--prefix", 8, "--out", tmp_path / "r")
    assert code == 0, err
    code, out, err = run(*verb, model, *call, *first, 8, "--out", tmp_path / "r")
    assert code == 0, err
    assert sorted(drawn) == [0, 8, 8, 16]  # what was measured is not drawn again
    points = json.loads(out)["points"]
    assert [(p["model"], p["prefix"]) for p in points] == [
        ("model", 0),
        ("model", 8),
        ("model", 16),
        ("vq", 8),
    ]
    assert set(json.loads(out)["settings"]["drawn"]) == {"model", "vq"}
    code, alone, err = run(*verb, model, *call, *first, 8, "--out", tmp_path / "alone")
    assert code == 0, err
    assert json.loads(alone)["points"] == points[:3]
    code, _, err = run(*verb, model, *call, *first, "--top-p", 0.5, "--out", tmp_path / "r")
    assert code == 2 and "choose another --out" in err

"""The record of a prefix curve: what is left to do, what may join it, and how it is ordered."""

import json
from dataclasses import replace

import pytest
import torch

from digit.data.images import open_images
from digit.errors import DigitError
from digit.evaluation.networks import classifier_network
from digit.evaluation.prefix import Point
from digit.evaluation.scores import Moments
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.pipeline import DigitPipeline
from digit.run.evaluate.measurement import pixels_of
from digit.run.evaluate.prefix_points import Curve, encode, settings_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(chain):
    return {"model": DigitPipeline.from_pretrained(chain.root / "model")}


@pytest.fixture
def curve(chain, models):
    """Make a curve; without networks, since none is asked here."""
    source = open_images(chain.images)

    def make(written=None, **asked):
        return Curve(models, source, [], CPU, {"images": "x", **asked}, written)

    return make


def test_points_are_kept_as_they_come_and_taken_up(curve, tmp_path):
    first = curve(tmp_path / "prefix.json")
    assert {name: sorted(left) for name, left in first.left([16, 0, 99]).items()} == {"model": [0, 16]}
    for prefix in (16, 0):
        first.add(Point("model", prefix, 16, {"FID": 1.0 + prefix}))
        stored = json.loads((tmp_path / "prefix.json").read_text())
        assert len(stored["points"]) == len(first.points)
    assert [point["prefix"] for point in stored["points"]] == [0, 16]
    assert stored["values"] == {"model: FID, prefix 0 of 16": 1.0, "model: FID, prefix 16 of 16": 17.0}
    again = curve(tmp_path / "prefix.json")
    assert again.points == first.points and again.left([0, 8, 16]) == {"model": [8]}
    assert again.value()["values"] == stored["values"]


def test_points_of_other_pictures_or_settings_do_not_join(curve, models, tmp_path):
    curve(tmp_path / "p.json").add(Point("model", 0, 16, {"FID": 1.0}))
    with pytest.raises(DigitError, match="choose another --out"):
        curve(tmp_path / "p.json", under="test")
    model = models["model"]
    sampling = model.sampling
    model.sampling = replace(sampling, masked_steps=sampling.masked_steps + 1)
    try:
        with pytest.raises(DigitError, match="choose another --out"):
            curve(tmp_path / "p.json")
    finally:
        model.sampling = sampling


def test_codes_are_those_of_the_model_in_the_order_of_the_pictures(chain, models):
    torch.manual_seed(0)
    network = classifier_network(Classifier(ClassifierConfig(classes=3, width=4, image_size=16)))
    source = open_images(chain.images).select([0, 30, 47])
    codes, real = encode(source, models, [network], batch=2, device=CPU)
    pixels = torch.cat(list(pixels_of(source, 16, CPU, lambda count: None, batch_size=3)))
    assert torch.equal(codes["model"].long(), models["model"].encode(pixels))
    assert isinstance(real[0].moments, Moments) and real[0].moments.n == 3


def test_wrong_settings_are_refused_before_the_work():
    assert settings_of(None, False, temperature=0.5, top_k=None) == {"temperature": 0.5}
    with pytest.raises(DigitError, match="top-p is 2"):
        settings_of(None, True, top_p=2.0)
    with pytest.raises(DigitError, match="--guidance 2"):
        settings_of(2.0, False)
    assert settings_of(1.0, False) == {}

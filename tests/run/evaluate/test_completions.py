"""Real pictures through models: ways back that lose more or less, and the record of a prefix curve."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from digit.data.images import open_images
from digit.errors import DigitError
from digit.evaluation.networks import classifier_network
from digit.evaluation.prefix import Point
from digit.evaluation.scores import Moments
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.pipeline import DigitPipeline
from digit.rendering import to_uint8
from digit.run.evaluate.completions import (
    BACK,
    DIGIT,
    REAL,
    VQ,
    Curve,
    encode,
    reconstruct,
    renderer_settings,
    settings_of,
    ways_back,
)
from digit.run.evaluate.measurement import reading
from digit.weights.artifact import load

CPU = torch.device("cpu")
PIXELS = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return classifier_network(Classifier(ClassifierConfig(classes=3, width=4, image_size=16)))


def test_what_is_lost_is_measured(network):
    grey = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)
    ways = {
        "exact": lambda pixels, seeds: to_uint8(pixels),
        "one level": lambda pixels, seeds: (to_uint8(pixels).int() ^ 1).to(torch.uint8),
        "grey": lambda pixels, seeds: grey.expand(len(pixels), -1, -1, -1),
    }
    rows, shown = reconstruct(PIXELS.split(5), ways, [network])
    distance = network.metric("FD")
    assert list(rows) == [REAL, *ways] == list(shown)
    assert distance not in rows[REAL]
    assert rows["exact"]["PSNR"] == pytest.approx(120) and abs(rows["exact"][distance]) < 1e-6
    assert rows["one level"]["PSNR"] == pytest.approx(20 * math.log10(255))
    assert rows["grey"][distance] > rows["one level"][distance]
    assert torch.equal(shown[REAL], to_uint8(PIXELS[:5]))  # of the first batch


def test_codes_that_come_back_are_counted_over_all_pictures(network):
    ways = {
        "exact": lambda pixels, seeds: to_uint8(pixels),
        "first batch only": lambda pixels, seeds: to_uint8(pixels) * (seeds[0] == 0),
    }
    rows, _ = reconstruct(PIXELS.split(5), ways, [network], tokenise=lambda given: given[:, 0, 0].long())
    assert rows["exact"][BACK] == 1.0 and BACK not in rows[REAL]
    same = (to_uint8(PIXELS)[5:, 0, 0] == 0).sum() + 5 * 16  # black pixels stay
    assert rows["first batch only"][BACK] == pytest.approx(float(same) / (12 * 16))


def test_pictures_have_seeds_in_order_whatever_the_batch(network):
    asked = []

    def way(pixels, seeds):
        asked.append(seeds)
        return to_uint8(pixels)

    reconstruct(PIXELS.split(5), {"way": way}, [network])
    assert asked == [list(range(5)), list(range(5, 10)), [10, 11]]


def test_a_models_ways_are_its_stages(chain):
    model = DigitPipeline.from_pretrained(chain.root / "model")
    settings = renderer_settings(model, None)
    assert settings["name"] == "autoregressive"
    assert settings["top_p"] == model.sampling.renderer.top_p
    ways = ways_back(model, settings)
    assert list(ways) == [DIGIT, VQ]
    with torch.inference_mode():
        expected = to_uint8(model.vqgan.decode(model.vqgan.encode(PIXELS)))
        assert torch.equal(ways[VQ](PIXELS, list(range(12))), expected)
        drawn = ways[DIGIT](PIXELS[:2], [5, 6])
        assert torch.equal(drawn, ways[DIGIT](PIXELS[:2], [5, 6]))
        assert not torch.equal(drawn, ways[DIGIT](PIXELS[:2], [7, 8]))  # the renderer draws by seed
    masked = renderer_settings(model, "masked")
    assert masked["name"] == "masked"


@pytest.mark.parametrize("name", ["autoregressive", "masked"])
def test_a_renderer_by_class_is_told_the_pictures_own(by_class, name):
    model = DigitPipeline.from_pretrained(by_class.root / "model")
    free = renderer_settings(model, name)
    assert (free["classes"], free["guidance"]) == (False, 1.0)
    settings = renderer_settings(model, name, labelled=True) | {"guidance": 4.0}
    assert settings["classes"]
    part: Any = model.renderer_masked if name == "masked" else model.renderer
    with torch.no_grad():  # three updates leave classes alike
        (part.separator_embedding if name == "masked" else part.start_embedding).weight.mul_(20)
    classes = [2, 0, 1]
    ways = [
        ways_back(model, settings, lambda seeds, all=all: [all[i] for i in seeds])
        for all in (classes, [0] * 3)
    ]
    whole, others = (each[DIGIT](PIXELS[:3], [0, 1, 2]) for each in ways)
    assert torch.equal(ways[0][DIGIT](PIXELS[1:3], [1, 2]), whole[1:])
    assert torch.equal(whole[1], others[1]) and not torch.equal(whole, others)
    assert not torch.equal(ways_back(model, free)[DIGIT](PIXELS[:3], [0, 1, 2]), whole)


def test_without_a_tokenizer_only_vq_is_left(chain):
    whole = DigitPipeline.from_pretrained(chain.root / "model")
    blind = DigitPipeline(whole.prior, whole.vqgan, renderer=whole.renderer)
    assert list(ways_back(blind, {"name": "autoregressive"})) == [VQ]
    prior: Any = load(chain.root / "prior_vq")
    plain = DigitPipeline(prior, whole.vqgan)
    assert renderer_settings(plain, None) == {}


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
    with pytest.raises(DigitError, match="choose another out"):
        curve(tmp_path / "p.json", under="test")
    model = models["model"]
    sampling = model.sampling
    model.sampling = replace(sampling, masked_steps=sampling.masked_steps + 1)
    try:
        with pytest.raises(DigitError, match="choose another out"):
            curve(tmp_path / "p.json")
    finally:
        model.sampling = sampling


def test_codes_are_those_of_the_model_in_the_order_of_the_pictures(chain, models):
    torch.manual_seed(0)
    network = classifier_network(Classifier(ClassifierConfig(classes=3, width=4, image_size=16)))
    source = open_images(chain.images).select([0, 30, 47])
    codes, real = encode(source, models, [network], batch=2, device=CPU)
    with reading("pictures", source, 16, CPU, 3) as (read, _):
        pixels = torch.cat(list(read()))
    assert torch.equal(codes["model"].long(), models["model"].encode(pixels))
    assert isinstance(real[0].moments, Moments) and real[0].moments.n == 3


def test_wrong_settings_are_refused_before_the_work():
    assert settings_of(None, False, temperature=0.5, top_k=None) == {"temperature": 0.5}
    with pytest.raises(DigitError, match="top_p is 2"):
        settings_of(None, True, top_p=2.0)
    with pytest.raises(DigitError, match=r"^guidance 2"):
        settings_of(2.0, False)
    assert settings_of(1.0, False) == {}

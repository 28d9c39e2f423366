"""Ways back: exact ones lose nothing, worse ones lose more, and a model's ways are its stages in a row."""

import math
from typing import Any

import pytest
import torch

from digit.evaluation.networks import classifier_network
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.pipeline import DigitPipeline, to_uint8
from digit.run.evaluate.reconstructions import DIGIT, REAL, VQ, reconstruct, renderer_settings, ways_back
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
    rows, shown, count = reconstruct(PIXELS.split(5), ways, [network])
    distance = network.metric("FD")
    assert count == 12 and list(rows) == [REAL, *ways] == list(shown)
    assert distance not in rows[REAL]
    assert rows["exact"]["PSNR"] == pytest.approx(120) and abs(rows["exact"][distance]) < 1e-6
    assert rows["one level"]["PSNR"] == pytest.approx(20 * math.log10(255))
    assert rows["grey"][distance] > rows["one level"][distance]
    assert torch.equal(shown[REAL], to_uint8(PIXELS[:5]))  # of the first batch


def test_pictures_have_seeds_in_order_whatever_the_batch(network):
    asked = []

    def way(pixels, seeds):
        asked.append(seeds)
        return to_uint8(pixels)

    reconstruct(PIXELS.split(5), {"way": way}, [network])
    assert asked == [list(range(5)), list(range(5, 10)), [10, 11]]


def test_a_models_ways_are_its_stages(chain):
    model = DigitPipeline.from_pretrained(chain.root / "model")
    settings = renderer_settings(model, None, temperature=None, top_k=2, top_p=None)
    assert settings["name"] == "autoregressive" and settings["top_k"] == 2
    assert settings["top_p"] == model.sampling.renderer.top_p
    ways = ways_back(model, settings, CPU)
    assert list(ways) == [DIGIT, VQ]
    with torch.inference_mode():
        expected = to_uint8(model.vqgan.decode(model.vqgan.encode(PIXELS)))
        assert torch.equal(ways[VQ](PIXELS, list(range(12))), expected)
        drawn = ways[DIGIT](PIXELS[:2], [5, 6])
        assert torch.equal(drawn, ways[DIGIT](PIXELS[:2], [5, 6]))
        assert not torch.equal(drawn, ways[DIGIT](PIXELS[:2], [7, 8]))  # the renderer draws by seed
    masked = renderer_settings(model, "masked", temperature=None, top_k=None, top_p=None)
    assert masked["name"] == "masked"


def test_without_a_tokenizer_only_vq_is_left(chain):
    whole = DigitPipeline.from_pretrained(chain.root / "model")
    blind = DigitPipeline(whole.prior, whole.vqgan, renderer=whole.renderer)
    assert list(ways_back(blind, {"name": "autoregressive"}, CPU)) == [VQ]
    prior: Any = load(chain.root / "prior_vq")
    plain = DigitPipeline(prior, whole.vqgan)
    assert renderer_settings(plain, None, temperature=None, top_k=None, top_p=None) == {}

"""Captured graphs and chained launches compute what the same steps compute one by one, to the bit."""

import pytest
import torch

from digit.fast import decoding, filling
from digit.nn.sampling import SamplerConfig
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer

CODES, LENGTH, CLASSES, LAYERS, BATCHES, WIDTH, HEADS = 8192, 67, 10, 4, (1, 3, 40), 1024, 16
HALF = pytest.mark.parametrize("half", [True, False], ids=["bfloat16", "float32"])
CONFIG = SamplerConfig(top_k=200, guidance=2.0)


@pytest.fixture(scope="module")
def shape():
    return {"width": WIDTH, "layers": LAYERS, "heads": HEADS}


@pytest.fixture(scope="module")
def prior(device, shape):
    torch.manual_seed(1)
    return Prior(PriorConfig(CODES, LENGTH, CLASSES, label_dropout=0.1, **shape)).eval().to(device)


@pytest.fixture(scope="module")
def renderer(device, shape):
    torch.manual_seed(2)
    return Renderer(RendererConfig(CODES, LENGTH, CODES // 8, LENGTH, **shape)).eval().to(device)


@pytest.fixture(scope="module")
def masked(device, shape):
    torch.manual_seed(3)
    return MaskedRenderer(MaskedConfig(CODES, LENGTH, CODES // 8, LENGTH, **shape)).eval().to(device)


def decoder_of(model):
    """The one that drew last."""
    return decoding._decoders[model.transformer][1]


def compare(model, sample):
    """Graphs, the same decoder's steps one by one, and those with launches that do not overlap."""
    captured, decoder = sample(), decoder_of(model)
    assert decoder.device.type == "cpu" or len(decoder.graphs) == 2
    decoder.graphs = {}
    alone = sample()
    decoder.packed.chained = False
    apart = sample()
    assert decoder_of(model) is decoder
    decoding.forget()
    assert torch.equal(alone, captured) and torch.equal(apart, captured)
    assert len(captured.unique()) > 2


@HALF
@pytest.mark.parametrize("images", BATCHES)
def test_a_prior(prior, images, half):
    labels = torch.arange(images) % CLASSES
    compare(prior, lambda: prior.sample(range(images), labels, CONFIG, autocast=half))


@HALF
@pytest.mark.parametrize("images", BATCHES)
def test_a_renderer(renderer, images, half, device):
    codes = torch.randint(CODES, (images, LENGTH), device=device)
    compare(renderer, lambda: renderer.sample(codes, range(images), autocast=half))


@HALF
@pytest.mark.parametrize("images", [1, 3])
def test_guided_renderers(shape, images, half, device, monkeypatch):
    torch.manual_seed(4)
    by_class = {"classes": CLASSES, "label_dropout": 0.1, **shape}
    codes, how = torch.randint(CODES, (images, LENGTH), device=device), {"autocast": half}
    how["labels"] = torch.arange(images) % CLASSES
    config = SamplerConfig(guidance=2.0)
    renderer = Renderer(RendererConfig(CODES, LENGTH, CODES // 8, LENGTH, **by_class)).eval().to(device)
    compare(renderer, lambda: renderer.sample(codes, range(images), config, **how))
    masked = MaskedRenderer(MaskedConfig(CODES, LENGTH, CODES // 8, LENGTH, **by_class)).eval().to(device)
    others = {**how, "labels": (how["labels"] + 1) % CLASSES}
    captured = [masked.sample(codes, range(images), config, **each) for each in (how, how, others)]
    filler = filling.last_filler(masked.transformer)
    assert filler is not None and (device.type == "cpu" or filler._graphs)
    monkeypatch.setattr(filling, "replays", lambda codes: False)
    alone = [masked.sample(codes, range(images), config, **each) for each in (how, how, others)]
    assert all(map(torch.equal, captured, alone)) and len(alone[0].unique()) > 2


def test_launches_are_chained(prior, device):
    """Or the comparison above says nothing about them."""
    if torch.cuda.get_device_capability(device) < (9, 0):
        pytest.skip("launches are chained from compute capability 9.0 on")
    prior.sample([0], config=SamplerConfig())
    assert decoder_of(prior).packed.chains(1)


@HALF
@pytest.mark.parametrize("images", [1, 3])
def test_a_masked_renderer(masked, images, half, device, monkeypatch):
    codes = torch.randint(CODES, (images, LENGTH), device=device)

    def sample():
        return masked.sample(codes, range(images), autocast=half)

    captured, replayed = sample(), sample()
    filler = filling.last_filler(masked.transformer)
    assert filler is not None and (device.type == "cpu" or filler._graphs)
    monkeypatch.setattr(filling, "replays", lambda codes: False)
    alone = sample()
    assert torch.equal(captured, replayed) and torch.equal(captured, alone)
    assert len(captured.unique()) > 2

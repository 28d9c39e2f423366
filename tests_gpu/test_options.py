"""Every setting of drawing: the path of GPUs in float32 draws what the plain path draws on the same GPU."""

from functools import partial

import pytest
import torch

from digit.nn import forms
from digit.nn.sampling import SamplerConfig
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer

CODES, LENGTH, CLASSES, WIDTH, LAYERS, BATCHES = 512, 32, 5, 64, 3, (2, 24)
SHARE = 0.99  # of codes that must be equal: a near tie may fall the other way, and its image with it
CONFIGS = [
    SamplerConfig(),
    SamplerConfig(temperature=0.0),
    SamplerConfig(temperature=0.7),
    SamplerConfig(top_k=20),
    SamplerConfig(top_p=0.8),
    SamplerConfig(temperature=0.7, top_k=50, top_p=0.9),
]
GUIDED = [
    SamplerConfig(guidance=3.0),
    SamplerConfig(guidance=0.5, top_p=0.8),
    SamplerConfig(guidance=3.0, guidance_schedule="linear", temperature=0.7, top_k=50),
    SamplerConfig(guidance=2.0, temperature=0.0),
]
OF_VOCABULARY = SamplerConfig(top_p=0.6, top_p_of="vocabulary")


def settled(model, device):
    """Weights away from their start, where an error in biases and norms would not show; sharper logits."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model.eval().to(device)


@pytest.fixture(scope="module", params=[("post", 0), ("pre", 0), ("post", 5)], ids=str)
def prior(request, device):
    torch.manual_seed(1)
    norm, specials = request.param
    shape = {"width": WIDTH, "layers": LAYERS, "heads": 4, "norm": norm, "specials": specials}
    return settled(Prior(PriorConfig(CODES, LENGTH, CLASSES, label_dropout=0.1, **shape)), device)


@pytest.fixture(scope="module")
def shape():
    return {"width": WIDTH, "layers": LAYERS, "heads": 4}


@pytest.fixture(scope="module", params=[0, 5], ids=["codes", "specials"])
def renderer(request, device, shape):
    torch.manual_seed(2)
    config = RendererConfig(CODES, LENGTH, CODES // 2, LENGTH, specials=request.param, **shape)
    return settled(Renderer(config), device)


@pytest.fixture(scope="module", params=[0, 5], ids=["codes", "specials"])
def masked(request, device, shape):
    torch.manual_seed(3)
    config = MaskedConfig(CODES, LENGTH, CODES // 2, LENGTH, specials=request.param, **shape)
    return settled(MaskedRenderer(config), device)


@pytest.fixture(scope="module")
def guided_renderers(device, shape):
    """One of each kind, that know classes."""
    torch.manual_seed(4)
    by_class = {"classes": CLASSES, "label_dropout": 0.1, **shape}
    return {
        "autoregressive": settled(
            Renderer(RendererConfig(CODES, LENGTH, CODES // 2, LENGTH, **by_class)), device
        ),
        "masked": settled(
            MaskedRenderer(MaskedConfig(CODES, LENGTH, CODES // 2, LENGTH, **by_class)), device
        ),
    }


@pytest.fixture(params=BATCHES, ids=lambda images: f"{images} images")
def images(request):
    return request.param


@pytest.fixture
def codes(device):
    return torch.randint(CODES, (max(BATCHES), LENGTH), device=device)


@pytest.fixture
def alike(record):
    """The share of codes that the plain path draws too, of more than one code, or nothing would show.

    The likeliest may be the same one everywhere.
    """

    def compare(name, sample, config):
        with forms.plain():
            plain = sample()
        fast = sample()
        share = float((fast == plain).double().mean())
        record(f"{name}: share of equal codes", share)
        assert share >= SHARE and (len(plain.unique()) > 1 or config.temperature == 0), name
        return fast, plain

    return compare


@pytest.mark.parametrize("config", CONFIGS)
def test_a_prior(prior, images, config, alike):
    classes = torch.arange(images) % CLASSES
    for name, labels in (("labels", classes), ("no labels", None)):
        alike(name, lambda labels=labels: prior.sample(range(images), labels, config, autocast=False), config)


@pytest.mark.parametrize("config", GUIDED)
def test_a_guided_prior(prior, images, config, alike):
    labels = torch.arange(images) % CLASSES
    alike("guided", lambda: prior.sample(range(images), labels, config, autocast=False), config)


def test_top_p_of_the_vocabulary(prior, renderer, images, codes, alike):
    if prior.config.specials:
        draw = lambda: prior.sample(range(images), config=OF_VOCABULARY, autocast=False)  # noqa: E731
        alike("prior", draw, OF_VOCABULARY)
    if renderer.config.specials:
        own = codes[:images]
        draw = lambda: renderer.sample(own, range(images), OF_VOCABULARY, autocast=False)  # noqa: E731
        alike("renderer", draw, OF_VOCABULARY)


@pytest.mark.parametrize("known", [1, 4, LENGTH])
@pytest.mark.parametrize("config", [SamplerConfig(top_k=50), GUIDED[0]], ids=["free", "guided"])
def test_prefixes(prior, images, codes, known, config, alike):
    prefix, labels = codes[:images, :known].cpu(), torch.arange(images) % CLASSES
    draw = lambda: prior.sample(range(images), labels, config, prefix=prefix, autocast=False)  # noqa: E731
    fast, plain = alike("prefix", draw, config)
    assert torch.equal(fast[:, :known].cpu(), prefix) and torch.equal(plain[:, :known].cpu(), prefix)


def test_a_samples_own_beginning_gives_it_again(prior, images):
    """Its codes are read together, and were drawn one by one, which rounds otherwise."""
    labels, config = torch.arange(images) % CLASSES, SamplerConfig(temperature=0.7)
    whole = prior.sample(range(images), labels, config, autocast=False)
    again = prior.sample(range(images), labels, config, prefix=whole[:, : LENGTH // 2].cpu(), autocast=False)
    assert (again == whole).double().mean() >= SHARE


@pytest.mark.parametrize("config", CONFIGS)
def test_a_renderer(renderer, images, codes, config, alike):
    draw = lambda: renderer.sample(codes[:images], range(images), config, autocast=False)  # noqa: E731
    alike("renderer", draw, config)


@pytest.mark.parametrize("config", GUIDED)
def test_guided_renderers(guided_renderers, images, codes, config, alike):
    for name, model in guided_renderers.items():
        for labels in (torch.arange(images) % CLASSES, torch.full((images,), -1)):
            draw = partial(model.sample, codes[:images], range(images), config, labels=labels, autocast=False)
            alike(name, draw, config)


@pytest.mark.parametrize("how", [{}, {"steps": 1}, {"steps": 5, "noise": 0.0}, {"noise": 9.0}], ids=str)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_masked_renderer(masked, images, codes, config, how, alike):
    draw = lambda: masked.sample(codes[:images], range(images), config, autocast=False, **how)  # noqa: E731
    alike("masked", draw, config)


def test_caches_of_eight_bits(prior, renderer, images, codes, record):
    """They round keys and values to four bits of significand: most first codes stay, and all are codes."""
    labels = torch.arange(images) % CLASSES
    drawn = {}
    for bits in (16, 8):
        drawn[bits] = prior.sample(range(images), labels, cache_bits=bits, autocast=False)
    assert torch.equal(drawn[8][:, 0], drawn[16][:, 0])  # the first reads no cache
    assert drawn[8].min() >= 0 and drawn[8].max() < CODES
    record("prior: share of equal codes", float((drawn[8] == drawn[16]).double().mean()))
    for bits in (16, 8):
        drawn[bits] = renderer.sample(codes[:images], range(images), cache_bits=bits, autocast=False)
    assert drawn[8].min() >= 0 and drawn[8].max() < CODES // 2
    record("renderer: share of equal codes", float((drawn[8] == drawn[16]).double().mean()))

"""A seed's codes and pixels are the same to the bit whatever batch it is drawn in."""

import pytest
import torch

from digit.fast import decoding
from digit.fast.kernels.attention import attend
from digit.fast.kernels.linear import FEW, counters, linear
from digit.fast.kernels.norm import norm
from digit.nn.sampling import SamplerConfig
from digit.pipeline import DigitPipeline
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig

CODES, LENGTH, CLASSES, VQ_CODES = 8192, 64, 10, 1024
SHAPE = {"width": 1024, "layers": 4, "heads": 16}
ROWS = (1, 2, 3, 8, 16, 17, 64, 300, 513, 1000, 2048, 4104)  # the last is what the others are compared with
WAYS = {  # batches up to that with which the others are compared
    "plain": (SamplerConfig(top_k=200), {}, (1, 2, 3, 8, 64, 1000, 2048)),
    "guided": (SamplerConfig(guidance=2.0, top_p=0.9), {}, (1, 2, 3, 8, 64, 1000)),
    "a prefix": (SamplerConfig(top_p=0.9), {"prefix": 20}, (1, 2, 3, 8, 64, 1000)),
    "8 bits": (SamplerConfig(top_k=200), {"cache_bits": 8}, (1, 2, 3, 8, 64, 1000)),
}


@pytest.fixture(autouse=True)
def no_decoders():
    """Or the one of a larger batch would serve the smaller ones."""
    yield
    decoding.forget()


def images_that_differ(draw, batches):
    """How many images of each batch have other codes than in the last."""
    whole = draw(batches[-1])
    found = {}
    for batch in batches[:-1]:
        decoding.forget()
        found[batch] = int((draw(batch) != whole[:batch]).flatten(1).any(1).sum())
    assert len(whole.unique()) > 2
    return found


@pytest.mark.parametrize("parts", [False, True], ids=["whole sums", "sums in parts"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "gelu"),
    [(320, 960, ""), (1024, 1024, ""), (1024, 4096, "tanh"), (4096, 1024, ""), (1536, 4608, "exact")],
)
def test_a_product(inputs, outputs, gelu, parts, device):
    x = torch.randn(ROWS[-1], inputs, device=device).bfloat16()
    matrix = (torch.randn(outputs, inputs, device=device) * inputs**-0.5).bfloat16()
    bias = torch.randn(outputs, device=device)
    residual = torch.randn(ROWS[-1], outputs, device=device).bfloat16()
    how = {"gelu": gelu, "parts": parts, "arrived": counters(outputs, device)}
    whole = linear(x, matrix, bias, residual=residual, **how)
    for rows in ROWS[:-1]:
        for chained in {False, parts and rows <= FEW}:
            found = linear(x[:rows], matrix, bias, residual=residual[:rows], chained=chained, **how)
            assert torch.equal(found, whole[:rows]), (rows, chained)


@pytest.mark.parametrize("width", [320, 1024, 1536])
def test_a_norm(width, device):
    x, (weight, bias) = (
        torch.randn(ROWS[-1], width, device=device).bfloat16(),
        torch.randn(2, width, device=device),
    )
    whole = norm(x, weight, bias)
    for rows in ROWS[:-1]:
        for chained in (False, True):
            assert torch.equal(norm(x[:rows], weight, bias, chained=chained), whole[:rows]), (rows, chained)


@pytest.mark.parametrize("channels", [32, 64, 80, 128])
@pytest.mark.parametrize("bits", [16, 8])
def test_attention(bits, channels, device):
    """A program for each row and head, or one for each window of positions."""
    heads, room = 16, 513
    where = {"device": device, "dtype": torch.bfloat16}
    qkv = torch.randn(ROWS[-1], 3 * heads * channels, **where)
    caches = [torch.randn(300, heads, room, channels, **where) for _ in range(2)]
    scales, arrived = None, torch.zeros(512, device=device, dtype=torch.int32)
    if bits == 8:
        caches = [each.to(torch.float8_e4m3fn) for each in caches]
        scales = tuple((torch.rand(300, heads, room, device=device) + 0.5).half() for _ in range(2))

    def mixed(rows, filled):
        found = torch.empty(rows, heads * channels, **where)
        at = torch.tensor(filled, device=device, dtype=torch.int32)
        how = {"scales": None if scales is None else tuple(each[:rows] for each in scales)}
        attend(qkv[:rows], *(each[:rows] for each in caches), found, at, arrived=arrived, **how)
        return found

    for filled in (0, 1, 100, 128, 129, 400, 512):
        whole = mixed(300, filled)
        for rows in (1, 2, 8, 31, 32, 64):
            assert torch.equal(mixed(rows, filled), whole[:rows]), (rows, filled)


@pytest.mark.parametrize("form", ["post", "pre"])
@pytest.mark.parametrize("way", WAYS)
def test_a_prior(way, form, device, record):
    config, how, batches = WAYS[way]
    shape = PriorConfig(CODES, LENGTH, CLASSES, label_dropout=0.1, norm=form, **SHAPE)
    prior = Prior(shape).eval().to(device)
    given = torch.randint(CODES, (batches[-1], how.get("prefix", 0)), device=device)
    more = {name: value for name, value in how.items() if name != "prefix"}

    def draw(batch):
        labels = torch.arange(batch) % CLASSES
        return prior.sample(range(batch), labels, config, prefix=given[:batch], batch_size=batch, **more)

    found = images_that_differ(draw, batches)
    record("images that differ", sum(found.values()))
    assert not any(found.values()), found


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("kind", [Renderer, MaskedRenderer])
def test_a_renderer(kind, guidance, device, record):
    shape = MaskedConfig if kind is MaskedRenderer else RendererConfig
    by_class = {"classes": CLASSES, "label_dropout": 0.1} if guidance != 1 else {}
    renderer = kind(shape(CODES, LENGTH, VQ_CODES, LENGTH, **by_class, **SHAPE)).eval().to(device)
    batches = (1, 2, 3, 8, 64, 1000)
    codes = torch.randint(CODES, (batches[-1], LENGTH), device=device)
    config = SamplerConfig(top_p=0.8 if kind is Renderer else 1.0, guidance=guidance)

    def draw(batch):
        how = {"labels": torch.arange(batch) % CLASSES} if by_class else {}
        return renderer.sample(codes[:batch], range(batch), config, batch_size=batch, **how)

    found = images_that_differ(draw, batches)
    record("images that differ", sum(found.values()))
    assert not any(found.values()), found


@pytest.mark.parametrize("renderer", ["autoregressive", "masked"])
def test_pictures_of_the_bundled_model(renderer, device, record):
    """Drawn one, two, three and eight at once, and in any order: the bytes of 64 at once."""
    pipeline = DigitPipeline.from_pretrained(device=device)
    whole = pipeline(seeds=range(64), renderer=renderer, batch_size=64)
    for batch in (1, 2, 3, 8):
        seeds = list(reversed(range(max(8, 2 * batch))))
        found = pipeline(seeds=seeds, renderer=renderer, batch_size=batch)
        assert torch.equal(found.codes, whole.codes[seeds]), batch
        assert torch.equal(found.vq_codes, whole.vq_codes[seeds]), batch
        assert torch.equal(found.pixels, whole.pixels[seeds]), batch


def test_pictures_of_256_pixels(device):
    vqgan = VQGAN(VQGANConfig())
    shape = PriorConfig(vqgan.config.codes, vqgan.length, width=64, layers=1, heads=2)
    pipeline = DigitPipeline(Prior(shape), vqgan).to(device)
    whole = pipeline(seeds=range(20), batch_size=20).pixels
    for batch in (1, 3, 8):
        assert torch.equal(pipeline(seeds=range(batch), batch_size=batch).pixels, whole[:batch]), batch

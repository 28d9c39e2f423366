"""How far bfloat16 and caches of 8 bits move the distribution of the next code, on given codes before it."""

import pytest
import torch

from digit.fast.decoding import FastDecoder, Shape
from digit.fast.kernels.draw import Filters
from digit.nn import forms
from digit.nn.sampling import SamplerConfig
from digit.pipeline import DigitPipeline
from digit.prior import Prior, PriorConfig

CODES, LENGTH, WIDTH, LAYERS, HEADS, PICTURES = 8192, 256, 1024, 16, 16, 16
WAYS = pytest.mark.parametrize(("rows", "bits"), [(2, 16), (None, 16), (None, 8)])
# Total variations, half as large again as those measured (docs/performance.md): mean, and of a position.
RANDOM = {16: (0.0065, 0.009), 8: (0.011, 0.013)}
BUNDLED = {16: 0.02, 8: 0.04}  # means; trained weights are sharper


@pytest.fixture(scope="module")
def published(device):
    """The published prior with random weights, and codes that it draws."""
    torch.manual_seed(1)
    with device:
        prior = Prior(PriorConfig(CODES, LENGTH, width=WIDTH, layers=LAYERS, heads=HEADS)).eval()
    return prior, drawn(prior), None


@pytest.fixture(scope="module")
def bundled(device):
    """The bundled prior, codes that it draws, and their labels."""
    prior = DigitPipeline.from_pretrained(parts=["renderer"]).to(device).prior
    labels = torch.arange(PICTURES, device=device) % prior.config.classes
    return prior, drawn(prior, labels), labels


def drawn(prior, labels=None):
    with forms.plain():
        return prior.sample(range(PICTURES), labels, SamplerConfig(top_k=200), autocast=False)


def variations(found, rows, bits):
    """Mean total variation of each position's next code to that of float32."""
    prior, codes, labels = found
    codes, labels = codes[:rows], None if labels is None else labels[:rows]
    (rows, length), filters = codes.shape, Filters(*[False] * 5)
    shape = Shape(rows, False, length, length, torch.bfloat16, bits, filters)
    own = slice(prior.config.specials, prior.config.specials + prior.config.codes)
    with torch.inference_mode():
        truth = prior.logits(codes, labels).softmax(-1)
        decoder = FastDecoder(prior.transformer, prior.tables(), shape)
        decoder.filled.zero_()
        read, made = prior.embed(codes[:, :-1], labels), []
        for position in range(length):
            decoder.embedded.copy_(read[:, position])
            made.append(decoder.scores(0)[:, own].float().softmax(-1))
            decoder.filled += 1
        return (torch.stack(made, 1) - truth).abs().sum(-1).mean(0) / 2


@WAYS
def test_the_published_shape_on_random_weights(published, rows, bits, record):
    found = variations(published, rows, bits)
    record("mean", mean := float(found.mean()))
    record("largest of a position", largest := float(found.max()))
    assert mean < RANDOM[bits][0] and largest < RANDOM[bits][1]
    assert mean > 0  # float32 it is not


@WAYS
def test_the_bundled_prior(bundled, rows, bits, record):
    found = variations(bundled, rows, bits)
    record("mean", mean := float(found.mean()))
    record("largest of a position", float(found.max()))
    assert 0 < mean < BUNDLED[bits]

"""The decoding of GPUs, step by step on the CPU: the same codes as the plain path in float32."""

import pytest
import torch

from digit.fast import decoding as fast_decoding
from digit.fast.decoding import ScaledCache, Shape
from digit.fast.kernels import linear
from digit.fast.kernels.draw import Filters
from digit.nn.decoding import decode
from digit.nn.noise import keys
from digit.nn.sampling import SamplerConfig
from digit.nn.transformer import TransformerConfig
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig


def jolt(module):
    """Biases and norms away from their start, where an error in them would not show."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


def prior(norm, specials=0, layers=2):
    shape = {"width": 12, "layers": layers, "heads": 2, "norm": norm, "specials": specials}
    return jolt(Prior(PriorConfig(codes=20, length=5, classes=3, label_dropout=0.1, **shape)))


@pytest.fixture(params=[0, 99], ids=["many rows", "few rows"])
def few(request, monkeypatch):
    monkeypatch.setattr(linear, "FEW", request.param)


@pytest.fixture
def both(of_both):
    """Codes of the plain loop and of the form that takes its place."""

    def run(model, seeds, config, *, label=None, prefix=None, watch=None):
        labels = None if label is None else torch.full((len(seeds),), label)
        given = torch.empty(len(seeds), 0, dtype=torch.int64) if prefix is None else prefix
        arguments = {
            "keys": keys(seeds, stage="test"),
            "length": model.config.length,
            "config": config,
            "tables": model.tables(),
            "given": given,
            "watch": watch,
        }
        with torch.no_grad():
            start = model.embed(given, labels)
            arguments["null_prefix"] = model.embed(given) if config.guidance != 1 else None
        return of_both(lambda: decode(model.transformer, start, **arguments))

    return run


@pytest.mark.parametrize(("norm", "specials"), [("post", 5), ("pre", 0)])
def test_codes_equal_the_plain_loops(few, both, norm, specials):
    model = prior(norm, specials)
    plain, fast = both(model, range(3), SamplerConfig(top_k=7 if specials else 0), label=1)
    assert torch.equal(plain, fast) and len(plain.unique()) > 3


def test_guidance_and_given_codes(few, both):
    model = prior("post")
    config = SamplerConfig(guidance=3.0, guidance_schedule="linear")
    plain, fast = both(model, range(2), config, label=2)
    assert torch.equal(plain, fast)
    prefixed = both(model, range(2), config, label=2, prefix=plain[:, :3])
    assert torch.equal(prefixed[0], plain) and torch.equal(prefixed[1], plain)
    seen = []
    both(model, range(2), config, label=2, prefix=plain[:, :3], watch=seen.append)
    assert [each[0].tolist() for each in seen] == 2 * [
        plain[0, :known].tolist() + [-1] * (5 - known) for known in (4, 5)
    ]


def test_a_decoder_serves_again_until_a_weight_changes(both):
    model = prior("post", layers=1)
    both(model, range(3), SamplerConfig(), label=0)
    kept = fast_decoding._decoders[model.transformer][1]
    both(model, range(2), SamplerConfig(temperature=0.5), label=1)  # two of its three rows
    assert fast_decoding._decoders[model.transformer][1] is kept
    with torch.no_grad():
        model.transformer.blocks[0].attention.qkv.weight *= 2
    plain, fast = both(model, range(3), SamplerConfig(), label=0)
    assert torch.equal(plain, fast)
    assert fast_decoding._decoders[model.transformer][1] is not kept


def test_a_renderer(of_both):
    codes = torch.randint(20, (2, 4))
    renderer = jolt(Renderer(RendererConfig(20, 4, 9, 4, width=12, layers=2, heads=3)))
    with torch.no_grad():
        prefix = renderer.embed(codes)
    arguments = {"keys": keys(range(2), stage="test"), "length": 4, "config": SamplerConfig(top_p=0.8)}
    arguments["tables"] = renderer.tables()
    plain, fast = of_both(lambda: decode(renderer.transformer, prefix, **arguments))
    assert torch.equal(plain, fast)


def test_a_guided_renderer(of_both):
    codes = torch.randint(20, (3, 4))
    by_class = {"classes": 3, "label_dropout": 0.1}
    renderer = jolt(Renderer(RendererConfig(20, 4, 9, 4, width=12, layers=2, heads=3, **by_class)))
    config = SamplerConfig(guidance=2.0, top_p=0.8)
    plain, fast = of_both(lambda: renderer.sample(codes, range(3), config, labels=[0, 2, 1]))
    assert torch.equal(plain, fast) and len(plain.unique()) > 2


def test_eight_bit_caches_hold_the_prefix():
    filters = Filters(greedy=False, top_k=False, top_p=False, of_vocabulary=False, guided=False)
    shape = Shape(2, False, 5, 5, torch.float32, 8, filters)
    cache = ScaledCache(TransformerConfig(12, 1, 3), shape, device=torch.device("cpu"))
    torch.manual_seed(0)
    keys, values = torch.randn(2, 2, 3, 4, 4).unbind(0)
    assert cache.extend(0, keys, values=values)[0] is keys  # nothing lies before them
    restored = cache.keys[0].float() * cache.scales[0][0].float().unsqueeze(-1)
    error = (restored[:, :, :4] - keys).abs() / keys.abs().amax(-1, keepdim=True)
    assert error.max() < 1 / 24  # half a step of three bits of mantissa


def test_memory_is_counted_before_it_is_taken():
    config = TransformerConfig(1024, 16, 16)
    each = fast_decoding.cache_bytes(config, 1, 256, dtype=torch.bfloat16, bits=16)
    assert each == 2 * 16 * 256 * 1024 * 2
    shape = {"dtype": torch.float32, "bits": 8}
    eight = fast_decoding.cache_bytes(config, 2, 256, **shape)
    assert eight == 2 * 2 * 16 * 256 * (1024 + 2 * 16)

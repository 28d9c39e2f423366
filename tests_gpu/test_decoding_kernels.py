"""The kernels of decoding at the published shapes: against float64, and draws against the plain function."""

import pytest
import torch

from digit.fast.kernels.attention import attend
from digit.fast.kernels.draw import Filters, draw
from digit.fast.kernels.filling import embed, settle
from digit.nn import noise, sampling
from digit.nn.sampling import SamplerConfig
from digit.renderer_masked import settle as plain_settle

ROWS, CODES, WIDTH, HEADS, LENGTH, VQ_CODES = 64, 8192, 1024, 16, 256, 1024
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
EXACT = [  # where nothing is rounded otherwise than on a CPU
    SamplerConfig(),
    SamplerConfig(temperature=0.0),
    SamplerConfig(temperature=0.7),
    SamplerConfig(top_k=200),
    SamplerConfig(temperature=0.7, top_k=1),
]
CUT = [  # masses are sums of exponentials, which a GPU rounds otherwise
    SamplerConfig(top_p=0.8),
    SamplerConfig(temperature=0.7, top_k=200, top_p=0.9),
    SamplerConfig(top_p=0.8, top_p_of="vocabulary"),
]


@DTYPES
@pytest.mark.parametrize("chained", [False, True], ids=["", "chained"])
@pytest.mark.parametrize("filled", [0, 1, 255, 512])
@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("rows", [1, ROWS])
def test_attention(rows, bits, filled, chained, dtype, device, near):
    """To the filled part of 513 positions; nothing but the new position is written."""
    if chained and torch.cuda.get_device_capability(device) < (9, 0):
        pytest.skip("launches are chained from compute capability 9.0 on")
    each = WIDTH // HEADS
    qkv = torch.randn(rows, 3 * WIDTH, device=device).to(dtype)
    caches, scales = torch.randn(2, rows, HEADS, 513, each, device=device), None
    query, *new = qkv.double().view(rows, 3, HEADS, each).unbind(1)
    keys, values = caches.to(dtype if bits == 16 else torch.float8_e4m3fn).unbind(0)
    if bits == 8:
        numbers = (torch.rand(2, rows, HEADS, 513, device=device) + 0.5).half()
        scales = (numbers[0], numbers[1])
    before, seen = [keys.clone(), values.clone()], []
    for place, (cache, own) in enumerate(zip(before, new, strict=True)):
        known = cache[:, :, :filled].double()
        known = known if scales is None else known * scales[place][:, :, :filled].double().unsqueeze(-1)
        seen.append(torch.cat((known, own[:, :, None]), 2))
    scores = (seen[0] @ query[..., None]).squeeze(-1) * each**-0.5
    sizes = (seen[0].abs() @ query.abs()[..., None]).squeeze(-1) * each**-0.5
    weights = scores.softmax(-1)[:, :, None]
    wanted, size = (weights @ seen[1]).flatten(1), (weights @ seen[1].abs()).squeeze(2)
    size = size * (1 + sizes.amax(-1, keepdim=True))  # an error of a score is one of its weight
    mixed, counter = torch.empty_like(qkv[:, :WIDTH]), torch.tensor(filled, dtype=torch.int32, device=device)
    arrived = torch.zeros(rows * HEADS, dtype=torch.int32, device=device)
    attend(qkv, keys, values, mixed, counter, arrived=arrived, scales=scales, chained=chained)
    near("values", mixed, wanted, size.flatten(1))
    for place, (cache, known, own) in enumerate(zip((keys, values), before, new, strict=True)):
        others = torch.arange(513, device=device) != filled
        assert torch.equal(cache[:, :, others].float(), known[:, :, others].float())
        written = cache[:, :, filled].double()
        if scales is None:
            assert torch.equal(written, own)
        else:  # half a step of three bits of significand
            error = (written * scales[place][:, :, filled].double().unsqueeze(-1) - own).abs()
            assert (error < own.abs().amax(-1, keepdim=True) / 24).all()


def drawn(logits, keys, config, *, count, specials=0, **more):
    """Codes of place 3, by the kernel."""
    codes = torch.full((len(keys), LENGTH), -1, device=logits.device)
    numbers = torch.tensor([config.temperature, config.top_p, config.top_k], dtype=torch.float64)
    filters = Filters(
        greedy=config.temperature == 0,
        top_k=config.top_k > 0,
        top_p=config.top_p < 1,
        of_vocabulary=config.top_p_of == "vocabulary",
        guided=len(logits) > len(keys),
    )
    how = {"settings": numbers.to(logits.device), "offset": 2, "count": count, "specials": specials}
    counter = torch.ones((), dtype=torch.int32, device=logits.device)
    draw(logits, keys.to(logits.device), codes, filters, counter=counter, **how, **more)
    assert (codes[:, torch.arange(LENGTH) != 3] == -1).all()
    return codes[:, 3].cpu()


@pytest.mark.parametrize("count", [CODES, VQ_CODES])
@pytest.mark.parametrize("config", [*EXACT, *CUT])
def test_draws_are_a_cpus(config, count, device, record):
    specials = 5 if config.top_p_of == "vocabulary" else 0
    logits, keys = 3 * torch.randn(ROWS, specials + count), noise.keys(range(ROWS), stage="test")
    wanted = sampling.draw(logits, keys, torch.tensor(3), config, specials=specials)
    found = drawn(logits.to(device), keys, config, count=count, specials=specials)
    record("codes unlike a CPU's", differ := int((found != wanted).sum()))
    assert differ <= (1 if config in CUT else 0)


def test_of_equal_logits_the_first_are_kept(device):
    logits, keys = (3 * torch.randn(ROWS, CODES)).round(), noise.keys(range(ROWS), stage="test")
    config = SamplerConfig(top_k=200)
    wanted = sampling.draw(logits, keys, torch.tensor(3), config)
    assert torch.equal(drawn(logits.to(device), keys, config, count=CODES), wanted)


def test_codes_follow_the_softmax(device):
    """All rows have the same logits: how often each code comes, against its probability (chi squared)."""
    rows, count = 128 * ROWS, 16
    logits = torch.randn(count)
    keys = noise.keys(range(rows), stage="test")
    found = drawn(logits.expand(rows, count).contiguous().to(device), keys, SamplerConfig(), count=count)
    expected = rows * logits.double().softmax(0)
    statistic = ((found.bincount(minlength=count) - expected).square() / expected).sum()
    assert statistic < 15 + 5 * 30**0.5  # mean and five deviations of 15 degrees of freedom


@DTYPES
def test_guidance_embedding_and_confidence(dtype, device, near):
    logits, keys = torch.randn(2 * ROWS, CODES, device=device), noise.keys(range(ROWS), stage="test")
    strength = torch.full((LENGTH,), 2.5, device=device)
    table, positions = (torch.randn(rows, WIDTH, device=device) for rows in (CODES, LENGTH))
    embedded = torch.empty(2 * ROWS, WIDTH, device=device, dtype=dtype)
    confidence = torch.zeros(ROWS, LENGTH, device=device)
    more = {"tables": (table, positions, 2.0), "embedded": embedded, "confidence": confidence}
    codes = drawn(logits, keys, SamplerConfig(), count=CODES, guidance=strength, **more).to(device)
    conditional, null = logits.double().chunk(2)
    logs = (null + 2.5 * (conditional - null)).log_softmax(-1).gather(1, codes[:, None])[:, 0]
    near("confidence", confidence[:, 3], logs, 1 + logs.abs(), ulps=8)
    wanted = table[codes].double() * 2 + positions[4].double()
    size = 2 * table[codes].double().abs() + positions[4].double().abs()
    for name, half in zip(("with a label", "without"), embedded.chunk(2), strict=True):
        near(f"embedding {name}", half, wanted, size, ulps=1)


@pytest.mark.parametrize(("count", "left"), [(LENGTH, 251), (181, 142), (50, 0)])
def test_the_least_sure_are_masked_again(count, left, device):
    """As the plain function finds them on a CPU; sureness is in float64."""
    left = min(left, count - 1)
    masked = torch.stack([torch.randperm(LENGTH)[:count].sort().values for _ in range(ROWS)])
    chosen, before = torch.randint(VQ_CODES, (ROWS, count)), torch.randint(VQ_CODES, (ROWS, LENGTH))
    confidence, gumbel = torch.randn(ROWS, count), torch.randn(ROWS, LENGTH)
    how = {"noise": 1.3, "left": left, "mask": VQ_CODES}
    wanted, found = before.clone(), before.to(device)
    still = plain_settle(wanted, masked, chosen, confidence=confidence, gumbel=gumbel, **how)
    given = {"confidence": confidence.to(device), "gumbel": gumbel.to(device)}
    again = settle(found, masked.to(device), chosen.to(device), **given, **how)
    assert torch.equal(found.cpu(), wanted) and torch.equal(again.cpu(), still.sort().values)


@DTYPES
def test_the_next_input_of_the_masked_renderer(dtype, device):
    prefix = torch.randn(8, LENGTH + 1, WIDTH, device=device)
    table, positions = (torch.randn(rows, WIDTH, device=device) for rows in (VQ_CODES + 1, LENGTH))
    vq_codes = torch.randint(VQ_CODES + 1, (8, LENGTH), device=device)
    wanted = torch.cat((prefix, table[vq_codes] + positions), dim=1).to(dtype)
    assert torch.equal(embed(prefix, table, positions, vq_codes, dtype), wanted)

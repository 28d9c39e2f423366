import pytest
import torch

from digit.errors import DigitError
from digit.nn.noise import keys
from digit.nn.sampling import SamplerConfig, draw, filter_logits


def oracle(row, top_k, top_p):
    """The kept codes of one row, in plain Python."""
    order = sorted(range(len(row)), key=lambda code: (-row[code], code))
    if top_k:
        order = order[:top_k]
    weights = torch.tensor([row[code] for code in order], dtype=torch.float64).softmax(0).tolist()
    if top_p >= 1:
        return set(order)
    kept, total = set(), 0.0
    for code, weight in zip(order, weights, strict=True):
        kept.add(code)
        total += weight
        if total >= top_p:
            break
    return kept


@pytest.mark.parametrize("top_k", [0, 1, 5, 39, 40, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 0.01])
def test_filters_keep_what_a_slow_loop_keeps(top_k, top_p):
    torch.manual_seed(0)
    smooth = torch.randn(6, 40, dtype=torch.float64) * 3
    tied = torch.randn(6, 40, dtype=torch.float64).mul(2).round()  # many equal logits
    logits = torch.cat((smooth, tied, torch.zeros(1, 40, dtype=torch.float64)))
    kept = filter_logits(logits, SamplerConfig(top_k=top_k, top_p=top_p)).isfinite()
    for row, mask in zip(logits.tolist(), kept, strict=True):
        assert set(mask.nonzero().flatten().tolist()) == oracle(row, top_k, top_p)


def test_filters_keep_the_logits_they_keep():
    logits = torch.randn(4, 3, 20)
    filtered = filter_logits(logits, SamplerConfig(top_k=7, top_p=0.8))
    assert torch.equal(filtered[filtered.isfinite()], logits[filtered.isfinite()])
    assert torch.equal(filter_logits(logits, SamplerConfig()), logits)


def test_a_sum_equal_to_p_counts_as_reached():
    logits = torch.tensor([[0.0, 0.0, -1e9]])
    assert filter_logits(logits, SamplerConfig(top_p=0.5)).isfinite().tolist() == [[True, False, False]]


def own(seeds):
    return keys(seeds, stage="test")


PLACE = torch.tensor(3)


def test_codes_ruled_out_stay_out():
    logits = torch.full((1, 6), float("-inf"))
    logits[0, 2] = 0.0
    for config in (SamplerConfig(top_k=3), SamplerConfig(top_p=0.9), SamplerConfig(temperature=0.0)):
        assert draw(logits.expand(99, 6), own(range(99)), PLACE, config).unique().tolist() == [2]


@pytest.mark.parametrize(
    "config",
    [
        SamplerConfig(),
        SamplerConfig(temperature=0.5),
        SamplerConfig(top_k=4, temperature=1.5),
        SamplerConfig(top_p=0.8),
        SamplerConfig(top_k=7, top_p=0.7, temperature=0.8),
    ],
    ids=str,
)
def test_draws_follow_the_probabilities(config):
    """Chi-square: of 20,000 draws, as many of each code as the softmax of what is kept says."""
    torch.manual_seed(0)
    logits = torch.randn(12, dtype=torch.float64)
    shares = filter_logits(logits / config.temperature, config).softmax(-1)
    for dtype in (torch.float32, torch.float64):
        codes = draw(
            logits.to(dtype).expand(100, 200, 12), own(range(100))[:, None], torch.arange(200), config
        )
        counts, wanted = codes.flatten().bincount(minlength=12), shares * codes.numel()
        assert (counts[wanted == 0] == 0).all()
        squares = ((counts - wanted).square() / wanted)[wanted > 0]
        assert squares.sum() < len(squares) + 4 * (2 * len(squares)) ** 0.5


def test_equal_sums_give_the_lowest_code(monkeypatch):
    monkeypatch.setattr(
        "digit.nn.sampling.gumbels", lambda keys, places, count, *, step: torch.zeros(2, count)
    )
    assert draw(
        torch.tensor([[0.0, 2, 1, 2], [1, 1, 1, 1]]), own([1, 2]), PLACE, SamplerConfig()
    ).tolist() == [1, 0]


def test_a_row_is_drawn_alike_beside_any_others(monkeypatch):
    """In any order, alone, and in parts."""
    logits, places = torch.randn(5, 3, 20), torch.tensor([4, 0, 9])
    whole = draw(logits, own(range(5))[:, None], places, SamplerConfig(top_k=9))
    order = [3, 0, 4]
    assert torch.equal(draw(logits[order], own(order)[:, None], places, SamplerConfig(top_k=9)), whole[order])
    assert torch.equal(draw(logits[2, 1:2], own([2]), places[1:2], SamplerConfig(top_k=9)), whole[2, 1:2])
    monkeypatch.setattr("digit.nn.sampling.PART", 70)
    assert torch.equal(draw(logits, own(range(5))[:, None], places, SamplerConfig(top_k=9)), whole)


def by_inverse(logits, numbers, config):
    """The rival: where the cumulated probability passes a number in [0, 1)."""
    mass = filter_logits(logits, config).softmax(-1).double().cumsum(-1)
    return (mass <= numbers.unsqueeze(-1) * mass[..., -1:]).sum(-1)


@pytest.mark.parametrize("config", [SamplerConfig(), SamplerConfig(top_k=200)], ids=str)
def test_rounding_changes_a_quarter_of_the_codes_that_an_inverse_changes(config):
    torch.manual_seed(0)
    logits = torch.randn(4000, 1024) * 2
    rounded, numbers = logits.bfloat16(), torch.rand(4000, dtype=torch.float64)
    inverse = by_inverse(logits, numbers, config) != by_inverse(rounded.float(), numbers, config)
    seeds = own(range(4000))
    changed = draw(logits, seeds, PLACE, config) != draw(rounded, seeds, PLACE, config)
    assert 0 < 4 * changed.sum() < inverse.sum()


def test_guidance_schedules():
    linear = SamplerConfig(guidance=5.0, guidance_schedule="linear")
    assert [linear.guidance_at(position, 5) for position in range(5)] == [1, 2, 3, 4, 5]
    assert linear.guidance_at(0, 1) == 1
    assert SamplerConfig(guidance=5.0).guidance_at(0, 5) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"guidance": -1.0},
        {"guidance": float("inf")},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(DigitError, match=str(next(iter(wrong.values())))):
        SamplerConfig(**wrong)


@pytest.mark.parametrize("temperature", [1e-39, 1e-300, 9e-7])
def test_a_temperature_that_overflows_is_refused(temperature):
    with pytest.raises(DigitError, match="give 0"):
        SamplerConfig(temperature=temperature)
    SamplerConfig(temperature=1e-6)

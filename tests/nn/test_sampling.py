import pytest
import torch

from digit.errors import DigitError
from digit.nn.sampling import SamplerConfig, draw, filter_logits, uniforms


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


def test_codes_ruled_out_stay_out():
    logits = torch.full((1, 6), float("-inf"))
    logits[0, 2] = 0.0
    for config in (SamplerConfig(top_k=3), SamplerConfig(top_p=0.9), SamplerConfig(temperature=0.0)):
        assert draw(logits, torch.tensor([0.999]), config).tolist() == [2]


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0]).log()
    grid = (torch.arange(8000, dtype=torch.float64) + 0.5) / 8000
    codes = draw(logits.expand(8000, 5), grid, SamplerConfig())
    assert codes.bincount(minlength=5).tolist() == [4000, 2000, 1000, 1000, 0]
    codes = draw(logits.expand(8000, 5), grid, SamplerConfig(temperature=0.5, top_k=2))
    assert codes.bincount(minlength=5).tolist() == [6400, 1600, 0, 0, 0]


def test_extreme_numbers_give_codes_of_some_probability():
    logits = torch.tensor([[float("-inf"), 0.0, 1.0, float("-inf")]])
    assert draw(logits, torch.tensor([0.0]), SamplerConfig()).tolist() == [1]
    assert draw(logits, torch.tensor([1.0]), SamplerConfig()).tolist() == [2]  # a rounded up number
    assert draw(logits.bfloat16(), torch.tensor([0.9]), SamplerConfig()).tolist() == [2]


def test_large_draws_go_in_parts(monkeypatch):
    logits, numbers = torch.randn(5, 3, 20), torch.rand(5, 3)
    whole = draw(logits, numbers, SamplerConfig(top_k=9))
    monkeypatch.setattr("digit.nn.sampling.PART", 70)
    assert torch.equal(draw(logits, numbers, SamplerConfig(top_k=9)), whole)


def test_numbers_belong_to_their_seed_and_stream():
    together = uniforms([3, 0, 12345678901234567890], 5, stream="prior")
    assert together.dtype == torch.float64 and ((together >= 0) & (together < 1)).all()
    assert torch.equal(uniforms([0], 5, stream="prior"), together[1:2])
    assert torch.equal(uniforms(torch.tensor([3, 0]), 5, stream="prior"), together[:2])
    assert torch.equal(uniforms([3], 3, stream="prior"), together[:1, :3])
    assert not torch.equal(uniforms([3], 5, stream="renderer"), together[:1])
    many = uniforms(range(500), 16, stream="prior")
    assert abs(many.mean() - 0.5) < 0.01 and len(many.unique()) == 8000


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

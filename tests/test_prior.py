import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests_support import drawn_at_once

from digit.errors import DigitError
from digit.nn.batch import CodeBatch
from digit.nn.noise import keys
from digit.nn.sampling import SamplerConfig
from digit.prior import Prior, PriorConfig

TINY = PriorConfig(codes=13, length=6, classes=3, width=16, layers=2, heads=2, label_dropout=0.2)


def make(config=TINY):
    torch.manual_seed(0)
    return Prior(config).double().eval()


def codes_of(prior, rows=4):
    return torch.randint(prior.config.codes, (rows, prior.config.length))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_logits_read_the_codes_before_them_alone(norm):
    prior = make(replace(TINY, norm=norm))
    codes, labels = codes_of(prior), torch.tensor([0, 1, 2, -1])
    logits = prior.logits(codes, labels)
    for position in range(6):
        changed = codes.clone()
        changed[:, position] = (changed[:, position] + 1) % 13
        same = (prior.logits(changed, labels) == logits).all(-1)
        assert same[:, : position + 1].all() and not same[:, position + 1 :].any()


def test_positions_after_a_code_get_no_gradient():
    prior = make()
    prior.logits(codes_of(prior))[:, 2].sum().backward()
    gradient = prior.position_embedding.weight.grad
    assert (gradient[:3].abs().sum(-1) > 0).all() and torch.equal(gradient[3:], torch.zeros(4, 16).double())


def test_labels():
    prior = make()
    codes = codes_of(prior)
    none = prior.logits(codes)
    assert torch.equal(prior.logits(codes, torch.full((4,), -1)), none)
    assert not torch.isclose(prior.logits(codes, torch.tensor([0, 1, 2, 2])), none).any()
    assert torch.equal(prior(codes), none)


def test_loss_is_smoothed_cross_entropy():
    prior = make()
    batch = CodeBatch(codes_of(prior), torch.tensor([0, 1, 2, 0]))
    logits = prior.logits(batch.codes, batch.labels)
    expected = F.cross_entropy(logits.transpose(1, 2), batch.codes, label_smoothing=0.1)
    assert torch.allclose(prior.loss(batch), expected, atol=1e-12)
    prior = make(replace(TINY, classes=0))
    assert torch.equal(prior.loss(batch), prior.loss(CodeBatch(batch.codes)))  # labels it cannot read


def test_labels_are_dropped_in_training_alone():
    prior = make(replace(TINY, label_dropout=0.999999, dropout=0.0))
    batch = CodeBatch(codes_of(prior), torch.tensor([0, 1, 2, 0]))
    assert prior.loss(batch) != prior.loss(CodeBatch(batch.codes))
    prior.train()
    assert prior.loss(batch) == prior.loss(CodeBatch(batch.codes))


def test_states_are_those_of_every_position():
    prior = make()
    codes = codes_of(prior)
    states = prior.states(codes, torch.tensor([0, 1, 2, 0]))
    assert [tuple(state.shape) for state in states] == [(4, 7, 16)] * 3
    logits = prior.head(states[-1][:, :-1])
    assert torch.allclose(logits, prior.logits(codes, torch.tensor([0, 1, 2, 0])), atol=1e-12)


def test_parameters_of_the_published_sizes():
    def parameters(config):
        with torch.device("meta"):
            return sum(weight.numel() for weight in Prior(config).parameters())

    base = PriorConfig(codes=8192, length=256)
    # The reference's, without rows for special symbols (the start stays one) and for unused positions.
    assert parameters(base) == 219_377_664 - (4 + 5 + 769) * 1024
    assert parameters(replace(base, classes=1000)) == parameters(base) + 1000 * 1024
    assert parameters(replace(base, tied=True)) == parameters(base) - 8192 * 1024
    large = PriorConfig(codes=16000, length=256, width=1536, layers=24)
    assert parameters(large) == 730_699_776 - (4 + 5 + 769) * 1536


def test_tables_start_with_unit_variance_after_scaling():
    torch.manual_seed(0)
    prior = Prior(PriorConfig(codes=500, length=64, width=64, layers=1, heads=2))
    for table in (prior.code_embedding, prior.position_embedding, prior.projection):
        assert math.isclose(table.weight.std().item(), 1 / 8, rel_tol=0.05)


@pytest.mark.parametrize("config", [TINY, replace(TINY, norm="pre", tied=True)])
def test_cached_and_uncached_sampling_agree(config):
    prior = make(config)
    labels = torch.tensor([0, 1, 2, -1] * 5)
    for sampler in (None, SamplerConfig(top_k=5, guidance=2.5, guidance_schedule="linear")):
        cached = prior.sample(range(20), labels, sampler)
        own, logits = keys(range(20), stage="prior"), prior.logits(cached, labels)
        assert torch.equal(cached, drawn_at_once(logits, own, sampler, null=prior.logits(cached)))
        assert cached.dtype == torch.int64 and cached.min() >= 0 and cached.max() < 13


def test_a_seed_fixes_its_image_whatever_the_batch():
    prior = make()
    labels = torch.arange(9) % 3
    sampler = SamplerConfig(guidance=2.0, top_p=0.95)
    together = prior.sample(range(9), labels, sampler)
    assert torch.equal(prior.sample(range(9), labels, sampler, batch_size=4), together)
    assert torch.equal(prior.sample([7, 3], labels[[7, 3]], sampler), together[[7, 3]])
    assert len(together.unique(dim=0)) > 6


def test_sampling_follows_the_logits():
    prior = make(replace(TINY, classes=0, label_dropout=0.0, length=1))
    drawn = prior.sample(range(4000), batch_size=4000).flatten()
    expected = prior.logits(torch.zeros(1, 1, dtype=torch.int64)).softmax(-1).flatten()
    assert torch.allclose(drawn.bincount(minlength=13).double() / 4000, expected, atol=0.03)


def test_temperature_0_is_the_likeliest_continuation():
    prior = make()
    labels = torch.tensor([1, 2])
    codes = prior.sample([0, 1], labels, SamplerConfig(temperature=0.0))
    assert torch.equal(prior.logits(codes, labels).argmax(-1), codes)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_first_codes_of_a_sample_give_that_sample_again(guidance):
    prior = make()
    labels = torch.tensor([0, 1, 2, -1] * 3)
    sampler = SamplerConfig(top_p=0.95, guidance=guidance, guidance_schedule="linear")
    whole = prior.sample(range(12), labels, sampler)
    for known in range(7):
        again = prior.sample(range(12), labels, sampler, prefix=whole[:, :known], batch_size=5)
        assert torch.equal(again, whole), known


def test_a_prefix_is_kept_and_read():
    prior = make()
    given = torch.randint(13, (200, 3))
    drawn = prior.sample(range(200), prefix=given)
    assert torch.equal(drawn[:, :3], given)
    plain = prior.sample(range(200))
    same = torch.equal(prior.sample(range(200), prefix=plain[:, :3]), plain)
    assert same and not torch.equal(drawn[:, 3:], plain[:, 3:])  # one seed, another prefix
    likeliest = prior.sample(range(200), None, SamplerConfig(temperature=0.0), prefix=given)
    assert torch.equal(prior.logits(likeliest).argmax(-1)[:, 3:], likeliest[:, 3:])


def test_a_prefix_is_read_in_one_pass(monkeypatch):
    prior, read, heard = make(), [], []
    forward = prior.transformer.forward

    def watched(x, cache=None):
        read.append(x.shape[1])
        return forward(x, cache)

    monkeypatch.setattr(prior.transformer, "forward", watched)
    given = torch.zeros(3, 4, dtype=torch.int64)
    prior.sample(range(3), prefix=given, progress=heard.append)
    assert read == [5, 1] and heard == [3, 3]  # the start and four codes, then the fifth
    read.clear()
    whole = torch.zeros(3, 6, dtype=torch.int64)
    assert torch.equal(prior.sample(range(3), prefix=whole), whole) and not read


def test_progress_hears_every_code():
    heard = []
    make().sample(range(5), torch.zeros(5, dtype=torch.int64), batch_size=2, progress=heard.append)
    assert sum(heard) == 30


def test_sampled_codes_can_be_trained_on():
    prior = make()
    prior.loss(CodeBatch(prior.sample(range(2)))).backward()


def test_what_sampling_refuses():
    prior, labels = make(), torch.tensor([0, 1])
    for seeds, given, message in (
        ([], None, "no seeds"),
        ([1], labels, "1 seeds came with 2 labels"),
        ([1, 2], labels + 2, "the prior knows 0 to 2"),
        ([1, 2], labels - 2, "from -2"),
    ):
        with pytest.raises(DigitError, match=message):
            prior.sample(seeds, given)
    for prefix, message in (
        (torch.zeros(3, 2, dtype=torch.int64), "2 seeds came with 3 rows"),
        (torch.zeros(2, 7, dtype=torch.int64), "has 7 codes, an image of this prior 6"),
        (torch.full((2, 1), 13), "from 13 to 13, the prior knows 13"),
        (torch.full((2, 1), -1), "from -1"),
    ):
        with pytest.raises(DigitError, match=message):
            prior.sample([1, 2], prefix=prefix)
    guided = SamplerConfig(guidance=2.0)
    with pytest.raises(DigitError, match="label dropout"):
        make(replace(TINY, label_dropout=0.0)).sample([1, 2], labels, guided)
    with pytest.raises(DigitError, match="a label for every seed"):
        make(replace(TINY, label_dropout=0.0)).sample([1, 2])
    with pytest.raises(DigitError, match="unconditional"):
        make(replace(TINY, classes=0)).sample([1, 2], None, guided)
    with pytest.raises(DigitError, match="knows none"):
        make(replace(TINY, classes=0)).sample([1, 2], labels)


def test_wrong_settings_are_refused():
    for wrong in (
        {"codes": 0},
        {"length": 0},
        {"classes": -1},
        {"label_dropout": 1.0},
        {"label_smoothing": -0.1},
    ):
        with pytest.raises(DigitError):
            replace(TINY, **wrong)

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from digit.errors import DigitError
from digit.evaluation.probe_training import fit_probe, split_rows
from digit.nn.linear_probe import Probe, ProbeConfig, pooled_states, probe_results
from digit.prior import Prior, PriorConfig


def problem(n: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Three layers: nothing, much and a little about the label; the middle one also far from 0 and large."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (n,), generator=generator)
    noise, signal = torch.randn(n, 3, 8, generator=generator), F.one_hot(labels, 8).float()
    features = noise + torch.stack([0 * signal, 2.5 * signal, 0.5 * signal], 1)
    features[:, 1] = 30 * features[:, 1] + 100
    return features, labels


def test_the_best_layer_is_found_and_read_as_well_as_by_sklearn():
    features, labels = problem()
    probe = fit_probe(features[:300], labels[:300], classes=3, batch_size=100)
    held_out, test = (features[300:400], labels[300:400]), (features[400:], labels[400:])
    found = dict(probe_results(probe, held_out, test))
    assert found["best layer"] == 1
    oracle = LogisticRegression(max_iter=2000).fit(features[:300, 1], labels[:300])
    assert found["top-1 best layer"] >= oracle.score(features[400:, 1], labels[400:]) - 0.04
    assert found["top-1 best layer"] == found["top-1 layer 1"]
    assert found["top-1 layer 0"] < 0.5 < found["top-1 layer 2"] < found["top-1 layer 1"]


def test_rows_left_out_are_not_trained_on():
    features, labels = problem(60)
    features, labels = features.half(), labels.clone()
    rows, kept = split_rows(60, share=0.3, seed=1)
    assert len(kept) == 18
    assert sorted([*rows.tolist(), *kept.tolist()]) == list(range(60))
    shape = {"classes": 3, "rows": rows, "epochs": 2.0, "standardize": False, "batch_size": 20}
    before = fit_probe(features, labels, **shape)
    labels[kept], features[kept] = (labels[kept] + 1) % 3, 1000
    after = fit_probe(features, labels, **shape)
    assert torch.equal(before.weight, after.weight)
    assert before.weight.any()


def test_standardising_in_pieces_is_standardising():
    features = torch.randn(3000, 2, 4) * 7 + 50
    probe = Probe(ProbeConfig(width=4, classes=2, layers=2))
    probe.standardize(features)
    deviation, mean = torch.std_mean(features.double(), 0)
    torch.testing.assert_close(probe.mean.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(probe.scale.double(), 1 / deviation, rtol=1e-5, atol=0.0)


def test_pooling_codes_alone_leaves_the_start_out():
    torch.manual_seed(0)
    prior = Prior(PriorConfig(codes=7, length=5, width=8, layers=2, heads=2)).eval()
    codes = torch.randint(7, (3, 5))
    whole, alone = pooled_states(prior, codes), pooled_states(prior, codes, pool="codes")
    states = prior.states(codes)
    torch.testing.assert_close(alone[:, 1], states[1][:, 1:].mean(1))
    torch.testing.assert_close(whole[:, 1] * 6, alone[:, 1] * 5 + states[1][:, 0])


def test_too_few_pictures_are_refused():
    features, labels = problem(4)
    with pytest.raises(DigitError, match="train on"):
        fit_probe(features[:0], labels[:0], classes=3)
    with pytest.raises(DigitError, match="split"):
        split_rows(1)

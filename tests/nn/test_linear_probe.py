import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from digit.evaluation.probe import feature_data, probe_results
from digit.nn.linear_probe import FeatureBatch, Probe, ProbeConfig
from digit.weights.artifact import load, save


def problem(n: int = 600, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two layers: the first says little about the label, the second much."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    noise = torch.randn(n, 2, 8, generator=generator)
    signal = F.one_hot(labels, 8).float()
    return noise + torch.stack([0.3 * signal, 2.5 * signal], 1), labels


def train(
    probe: Probe, features: torch.Tensor, labels: torch.Tensor, steps: int = 150, lr: float = 1e-2
) -> None:
    data = feature_data(features, labels, batch_size=100)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=0)
    for step in range(steps):
        loss = probe.loss(data(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_the_best_head_is_as_good_as_sklearns_and_layers_differ():
    features, labels = problem()
    probe = Probe(ProbeConfig(width=8, classes=3, layers=2))
    train(probe, features[:400], labels[:400])
    held_out = features[400:], labels[400:]
    results = dict(probe_results(probe, held_out))
    for layer in (0, 1):
        oracle = LogisticRegression().fit(features[:400, layer], labels[:400])
        assert results[f"top-1 layer {layer}"] >= oracle.score(features[400:, layer], labels[400:]) - 0.03
        assert results[f"learning rate layer {layer}"] in probe.config.learning_rates
    assert results["top-1 layer 1"] > results["top-1 layer 0"] + 0.2


def test_a_head_learns_at_its_rate_times_the_optimizers():
    features, labels = problem(100)
    several = Probe(ProbeConfig(width=8, classes=3, layers=2, learning_rates=(0.1, 3.0)))
    train(several, features, labels, steps=3, lr=1e-2)
    alone = Probe(ProbeConfig(width=8, classes=3, layers=2, learning_rates=(1.0,)))
    train(alone, features, labels, steps=3, lr=3e-2)
    torch.testing.assert_close(
        several.logits(features)[:, :, 1], alone.logits(features)[:, :, 0], rtol=1e-3, atol=1e-4
    )


def test_the_loss_adds_up_the_heads():
    features, labels = problem(50)
    probe = Probe(ProbeConfig(width=8, classes=3, layers=2, learning_rates=(1.0, 2.0)))
    torch.nn.init.normal_(probe.weight)
    logits = probe.logits(features)
    expected = sum(F.cross_entropy(logits[:, layer, head], labels) for layer in (0, 1) for head in (0, 1))
    torch.testing.assert_close(probe.loss(FeatureBatch(features, labels)), expected)


def test_standardised_features_train_alike_whatever_their_scale():
    features, labels = problem(200)
    results = []
    for scale, shift in ((1.0, 0.0), (100.0, 40.0)):
        probe = Probe(ProbeConfig(width=8, classes=3, layers=2))
        probe.standardize(features * scale + shift)
        train(probe, features * scale + shift, labels, steps=20)
        results.append(probe.logits(features * scale + shift))
    torch.testing.assert_close(results[0], results[1], rtol=1e-2, atol=1e-2)


def test_heads_of_a_rate_of_their_own_survive_saving(tmp_path):
    features, labels = problem(100)
    probe = Probe(ProbeConfig(width=8, classes=3, layers=2, learning_rates=(0.5, 2.0)))
    probe.standardize(features)
    train(probe, features, labels, steps=3)
    save(probe, tmp_path)
    assert torch.equal(load(tmp_path).logits(features), probe.logits(features))


def test_where_the_weights_start():
    assert not Probe(ProbeConfig(width=8, classes=3)).weight.any()
    torch.manual_seed(0)
    drawn = Probe(ProbeConfig(width=100, classes=100, learning_rates=(1.0,), start=0.01))
    assert drawn.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not drawn.bias.any()


def test_standardising_in_pieces_is_standardising():
    features = torch.randn(3000, 2, 4) * 7 + 50
    probe = Probe(ProbeConfig(width=4, classes=2, layers=2))
    probe.standardize(features)
    deviation, mean = torch.std_mean(features.double(), 0)
    torch.testing.assert_close(probe.mean.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(probe.scale.double(), 1 / deviation, rtol=1e-5, atol=0.0)

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from digit.errors import DigitError
from digit.nn.linear_probe import (
    FeatureBatch,
    FeatureData,
    Probe,
    ProbeConfig,
    head_accuracies,
    pooled_states,
    probe_results,
)
from digit.prior import Prior, PriorConfig
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
    data = FeatureData(features, labels, batch_size=100)
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


def test_the_head_is_chosen_on_held_out_pictures_and_scored_on_the_test_set():
    features, labels = problem(300)
    probe = Probe(ProbeConfig(width=8, classes=3, layers=2, learning_rates=(1e-6, 1.0)))
    train(probe, features[:200], labels[:200], steps=40)
    test = features[250:], labels[250:]
    results = dict(probe_results(probe, (features[200:250], labels[200:250]), test))
    assert results["learning rate layer 1"] == 1.0
    assert results["top-1 layer 1"] == pytest.approx(head_accuracies(probe, *test)[1, 1].item())
    with pytest.raises(DigitError, match="held-out"):
        head_accuracies(probe, features[:0], labels[:0])


def test_batches_are_a_function_of_seed_and_step():
    features, labels = problem(30)
    data, again = (FeatureData(features, labels, batch_size=8, seed=1) for _ in range(2))
    data(0)
    assert torch.equal(data(5).features, again(5).features)
    rows = torch.cat([data(step).features for step in range(15)])  # four epochs
    assert torch.allclose(rows.sum(0), 4 * features.sum(0), atol=1e-3)


def tiny_prior(**changes) -> Prior:
    torch.manual_seed(0)
    shape = {"codes": 7, "length": 5, "width": 8, "layers": 3, "heads": 2, "dropout": 0.5}
    return Prior(PriorConfig(**shape | changes))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_pooled_states_are_the_means_of_what_each_block_reads(norm):
    prior, codes = tiny_prior(norm=norm).eval(), torch.randint(7, (4, 5))
    read = []
    hooks = [
        block.register_forward_hook(lambda _, inputs, output: read.append((inputs[0], output)))
        for block in prior.transformer.blocks
    ]
    pooled = pooled_states(prior, codes)
    for hook in hooks:
        hook.remove()
    assert pooled.shape == (4, 4, 8)
    for row, (inputs, output) in enumerate(read):
        assert inputs.shape == (4, 6, 8)  # the start and all five codes
        torch.testing.assert_close(pooled[:, row], inputs.mean(1))
        torch.testing.assert_close(pooled[:, row + 1], output.mean(1))
    torch.testing.assert_close(pooled[:, 0], prior.embed(codes).mean(1))


def test_pooled_states_have_no_dropout_no_gradient_and_leave_the_mode_alone():
    prior, codes = tiny_prior().train(), torch.randint(7, (4, 5))
    pooled = pooled_states(prior, codes)
    assert not pooled.requires_grad
    assert all(module.training for module in prior.modules())
    assert torch.equal(pooled, pooled_states(prior.eval(), codes))
    assert not any(module.training for module in prior.modules())


def test_pooled_states_read_a_label_only_where_one_is_given():
    prior, codes = tiny_prior(classes=2).eval(), torch.randint(7, (2, 5))
    without = pooled_states(prior, codes)
    assert torch.equal(without, pooled_states(prior, codes, torch.tensor([-1, -1])))
    assert not torch.allclose(without, pooled_states(prior, codes, torch.tensor([0, 1])))


def test_the_references_heads_are_linear_layers_on_pooled_states(tmp_path):
    prior, codes, labels = tiny_prior().eval(), torch.randint(7, (6, 5)), torch.randint(3, (6,))
    heads = [torch.nn.Linear(8, 3) for _ in range(3)]  # the last block's output has none
    probe = Probe(ProbeConfig(width=8, classes=3, layers=3, learning_rates=(1.0,)))
    with torch.no_grad():
        for layer, head in enumerate(heads):
            probe.weight[layer, 0], probe.bias[layer, 0] = head.weight.T, head.bias
    save(probe, tmp_path, lineage={"prior": "f00"}, classes=["a", "b", "c"])
    again = load(tmp_path, kind="probe")
    assert isinstance(again, Probe) and again.config == probe.config
    assert again.artifact["lineage"] == {"prior": "f00"}
    pooled = pooled_states(prior, codes)[:, :3]
    expected = [head(pooled[:, layer]) for layer, head in enumerate(heads)]
    torch.testing.assert_close(again.logits(pooled)[:, :, 0], torch.stack(expected, 1))
    loss = sum(F.cross_entropy(logits, labels) for logits in expected)
    torch.testing.assert_close(again.loss(FeatureBatch(pooled, labels)), loss)


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

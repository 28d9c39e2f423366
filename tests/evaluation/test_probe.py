import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from digit.errors import DigitError
from digit.evaluation.probe import (
    feature_data,
    fit_probe,
    head_accuracies,
    pooled_states,
    probe_results,
    split_rows,
)
from digit.nn.linear_probe import FeatureBatch, Probe, ProbeConfig
from digit.prior import Prior, PriorConfig
from digit.weights.artifact import load, save


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


def test_the_head_is_chosen_on_held_out_pictures_and_scored_on_the_test_set():
    features, labels = problem(300)
    probe = fit_probe(features[:200], labels[:200], classes=3, learning_rates=(0.0, 1.0))
    test = features[250:], labels[250:]
    results = dict(probe_results(probe, (features[200:250], labels[200:250]), test))
    assert results["learning rate layer 1"] == 1.0
    assert results["top-1 layer 1"] == pytest.approx(head_accuracies(probe, *test)[1, 1].item())
    with pytest.raises(DigitError, match="held-out"):
        head_accuracies(probe, features[:0], labels[:0])


def test_batches_are_a_function_of_seed_and_step():
    features, labels = problem(30)
    data, again = (feature_data(features, labels, batch_size=8, seed=1) for _ in range(2))
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

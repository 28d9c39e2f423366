"""The masked renderer's form for GPUs: the plain loop's VQ codes in float32, by graphs that stay true."""

import pytest
import torch

from digit.fast import filling
from digit.nn.sampling import SamplerConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer


@pytest.mark.parametrize("config", [SamplerConfig(), SamplerConfig(temperature=0.7, top_p=0.8)])
def test_vq_codes_equal_the_plain_loops(config, of_both):
    torch.manual_seed(5)
    shape = MaskedConfig(20, 4, 9, 4, width=12, layers=2, heads=3, specials=5, steps=3)
    renderer = MaskedRenderer(shape).eval()
    with torch.no_grad():
        for weight in renderer.parameters():  # biases and norms away from their start
            weight += 0.1 * torch.randn_like(weight)
    heard, seen = [], []
    how = {"config": config, "progress": heard.append, "watch": seen.append}
    plain, fast = of_both(lambda: renderer.sample(torch.randint(20, (2, 4)) * 0 + 7, [3, 4], **how))
    assert torch.equal(plain, fast) and sum(heard) == 2 * 2 * 4 and not fast.is_inference()
    assert torch.equal(seen[-1], fast) and [int((each < 0).sum()) for each in seen[:3]][-1] == 0


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_guided_vq_codes_equal_the_plain_loops(schedule, of_both):
    torch.manual_seed(5)
    by_class = {"classes": 3, "label_dropout": 0.1, "specials": 5, "steps": 3}
    renderer = MaskedRenderer(MaskedConfig(20, 4, 9, 4, width=12, layers=2, heads=3, **by_class)).eval()
    with torch.no_grad():
        for weight in renderer.parameters():
            weight += 0.1 * torch.randn_like(weight)
    config = SamplerConfig(guidance=2.5, guidance_schedule=schedule, top_p=0.9)
    codes, labels = torch.randint(20, (3, 4)), [2, 0, -1]
    plain, fast = of_both(lambda: renderer.sample(codes, [3, 4, 9], config, labels=labels))
    assert torch.equal(plain, fast) and len(plain.unique()) > 2


def test_a_graph_serves_any_labels(captures, of_both):
    torch.manual_seed(0)
    by_class = {"classes": 3, "label_dropout": 0.1, "steps": 1}
    renderer = MaskedRenderer(MaskedConfig(11, 2, 13, 2, width=16, layers=1, heads=2, **by_class))
    codes = torch.randint(11, (2, 2))
    for labels, guidance, made in (([0, 1], 1.0, 1), ([2, -1], 1.0, 1), ([2, 1], 3.0, 2), ([0, 0], 3.0, 2)):
        how = {"labels": labels, "config": SamplerConfig(guidance=guidance), "autocast": False}
        plain, fast = of_both(lambda how=how: renderer.sample(codes, range(2), **how))
        assert torch.equal(fast, plain) and len(captures) == made


@pytest.fixture
def captures(monkeypatch):
    """The graphs made, each of which does its work anew when it is replayed."""
    made = []

    def captured(work, *given):
        made.append(work)
        return work

    monkeypatch.setattr(filling, "Captured", captured)
    monkeypatch.setattr(filling, "replays", lambda codes: len(codes) <= 2)
    return made


def test_a_graph_serves_until_a_weight_changes(captures, of_both):
    torch.manual_seed(0)
    shape = MaskedConfig(codes=11, length=2, vq_codes=13, vq_length=2, width=16, layers=1, heads=2, steps=1)
    renderer = MaskedRenderer(shape)
    codes = torch.randint(11, (3, 2))
    how = [SamplerConfig(), SamplerConfig(top_k=5), SamplerConfig(temperature=0.5)]

    def drawn(rows, config, made):
        how = {"config": config, "autocast": False}
        plain, fast = of_both(lambda: renderer.sample(codes[:rows], range(rows), **how))
        assert torch.equal(fast, plain) and len(captures) == made

    drawn(3, how[0], 0)  # too many for a graph
    drawn(2, how[0], 1)
    codes[0, 1] += 1 - 2 * (codes[0, 1] > 5)
    drawn(2, how[0], 1)
    drawn(1, how[0], 2)
    drawn(2, how[1], 3)
    drawn(2, how[2], 4)
    drawn(2, how[0], 4)
    with torch.no_grad():
        renderer.vq_embedding.weight.mul_(1.5)  # where the graph reads it
    drawn(2, how[0], 4)
    renderer.code_embedding.weight = torch.nn.Parameter(renderer.code_embedding.weight * 2)  # elsewhere
    drawn(2, how[0], 5)
    with torch.no_grad():
        renderer.transformer.blocks[0].mlp[0].weight.mul_(3)  # of which the graph has a copy
        renderer.projection.weight.mul_(2)
    drawn(2, how[0], 6)
    drawn(2, how[0], 6)

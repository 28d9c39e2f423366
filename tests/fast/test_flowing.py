"""The flow renderer's form for GPUs: the plain passes' pictures, by graphs that stay true."""

import pytest
import torch

from digit.fast import flowing
from digit.renderer_flow import FlowConfig, FlowRenderer

SHAPE = {
    "codes": 9,
    "length": 4,
    "image_size": 8,
    "patch": 2,
    "width": 24,
    "layers": 2,
    "heads": 3,
    "steps": 3,
}


def settled(**changes):
    """A small renderer with weights away from their start."""
    torch.manual_seed(0)
    renderer = FlowRenderer(FlowConfig(**{**SHAPE, "classes": 3, **changes})).eval()
    with torch.no_grad():
        for weight in renderer.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return renderer


@pytest.mark.parametrize("guidance", [1.0, 1.7])
@pytest.mark.parametrize("taught", [1.0, 2.0])
def test_pictures_are_those_of_the_plain_passes(guidance, taught, of_both):
    renderer, codes = settled(taught_guidance=taught), torch.randint(9, (3, 4))
    seen, heard = [], []
    how = {"labels": [2, 0, -1], "guidance": guidance, "progress": heard.append}
    plain, fast = of_both(lambda: renderer.sample(codes, [5, 6, 2**70], **how, watch=seen.append))
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)
    assert len(seen) == 6 and sum(heard) == 2 * 3 * 3 and fast.std() > 0.1
    torch.testing.assert_close(torch.stack(seen[:3]), torch.stack(seen[3:]), rtol=0, atol=1e-5)


def test_what_is_learned_goes_by_the_plain_passes(of_both, monkeypatch):
    monkeypatch.setattr(flowing, "flow", None)  # not callable
    renderer = settled()
    given = torch.randn(1, 3, 8, 8), torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    found = flowing.plain_flow(renderer, *given, torch.ones(1), steps=1, guided=False)
    assert found.requires_grad
    with pytest.raises(TypeError, match="NoneType"):
        of_both(lambda: renderer.sample(given[1], [0]))


def test_graphs_serve_until_a_weight_changes(of_both, monkeypatch):
    made = []

    class Graph:
        def __init__(self, run, *given):
            self.run = run
            made.append(run)

        def __call__(self, *given):
            return self.run(*given)

    monkeypatch.setattr(flowing, "Captured", Graph)
    monkeypatch.setattr(flowing, "captures", lambda x: True)
    renderer, codes, heard = settled(), torch.randint(9, (2, 4)), []

    def drawn(count, **how):
        how |= {"labels": [1, 2], "progress": heard.append}
        plain, fast = of_both(lambda: renderer.sample(codes, range(2), **how))
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)
        assert len(made) == count

    drawn(1)
    drawn(1)
    assert heard == [2, 2, 2, 6] * 2  # a graph tells at its end
    drawn(2, guidance=1.0)
    drawn(3, steps=2)
    with torch.no_grad():
        renderer.code_embedding.weight.mul_(2)
        renderer.blocks[0].mlp[0].weight.mul_(1.5)
    drawn(4)

"""Between the passes of the masked renderer: kernels against torch."""

import pytest
import torch

from digit.fast import filling as fast_filling
from digit.fast import graphs
from digit.fast.kernels.filling import embed, settle
from digit.nn.sampling import SamplerConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer, _Passes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("count", "left"), [(9, 4), (9, 0), (9, 9), (1, 0), (70, 33)])
def test_the_least_sure_are_masked_again(count, left):
    torch.manual_seed(count)
    length = count + 3
    masked = torch.stack([torch.randperm(length)[:count].sort().values for _ in range(3)])
    drawn, before = torch.randint(50, (3, count)), torch.randint(50, (3, length))
    confidence = torch.randn(3, count)
    gumbel = torch.randn(3, 2, length, dtype=torch.float64)[:, 1]  # not contiguous, as it comes
    how = {"confidence": confidence, "gumbel": gumbel, "noise": 0.7, "left": left, "mask": 99}
    plain, fast = before.clone(), before.clone()
    wanted = _Passes.settle(None, plain, masked, drawn, **how)  # pyright: ignore[reportArgumentType]
    moved = {name: each.to(DEVICE) if torch.is_tensor(each) else each for name, each in how.items()}
    fast = fast.to(DEVICE)
    found = settle(fast, masked.to(DEVICE), drawn.to(DEVICE), **moved).cpu()
    assert torch.equal(found, wanted.sort().values)  # in the order of the list
    assert torch.equal(fast.cpu(), plain) and (plain == 99).sum() == 3 * left


def test_of_equally_sure_ones_the_first_are_masked_again():
    masked = torch.arange(6, device=DEVICE).repeat(1, 1)
    how = {"confidence": torch.zeros(1, 6, device=DEVICE), "noise": 0.0, "left": 2, "mask": 9}
    gumbel = torch.zeros(1, 6, dtype=torch.float64, device=DEVICE)
    vq_codes = torch.zeros(1, 6, dtype=torch.int64, device=DEVICE)
    still = settle(vq_codes, masked, masked.clone(), gumbel=gumbel, **how)
    assert still.tolist() == [[0, 1]] and vq_codes.tolist() == [[9, 9, 2, 3, 4, 5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_next_input(dtype):
    torch.manual_seed(0)
    prefix, table, positions = torch.randn(2, 3, 20), torch.randn(7, 20), torch.randn(5, 20)
    vq_codes = torch.randint(7, (2, 5))
    wanted = torch.cat((prefix, table[vq_codes] + positions), dim=1).to(dtype)
    found = embed(*(each.to(DEVICE) for each in (prefix, table, positions, vq_codes)), dtype)
    assert torch.equal(found.cpu(), wanted)


@pytest.fixture
def captures(monkeypatch):
    """The number of graphs made: on a CPU each does its work anew when it is replayed."""
    made = []

    class Captured(graphs.Captured):
        def __init__(self, work, *given):
            made.append(work)
            if torch.cuda.is_available():
                super().__init__(work, *given)
            else:
                self.work = work

        def __call__(self, *given):
            return super().__call__(*given) if torch.cuda.is_available() else self.work(*given)

    monkeypatch.setattr(fast_filling, "Captured", Captured)
    monkeypatch.setattr(fast_filling, "replays", lambda codes: len(codes) <= 2)
    return made


def test_a_graph_serves_until_a_weight_changes(captures):
    torch.manual_seed(0)
    shape = MaskedConfig(codes=11, length=2, vq_codes=13, vq_length=2, width=16, layers=1, heads=2, steps=1)
    renderer = MaskedRenderer(shape).to(DEVICE)
    codes = torch.randint(11, (3, 2))
    how = [SamplerConfig(), SamplerConfig(top_k=5), SamplerConfig(temperature=0.5)]

    def drawn(rows, config, made):
        fast, plain = (
            renderer.sample(codes[:rows], range(rows), config, autocast=False, fast=fast)
            for fast in (True, False)
        )
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

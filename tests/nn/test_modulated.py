import pytest
import torch
from torch import nn

from digit.nn.modulated import ModulatedBlock, Times, modulated


def settled(module):
    """Weights away from their start, where gates are shut."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return module.eval()


def test_a_new_block_passes_on_what_it_reads():
    x, condition = torch.randn(2, 5, 12), torch.randn(2, 12)
    assert torch.equal(ModulatedBlock(12, 3)(x, condition), x)


def test_a_block_is_attention_and_feed_forward_part_under_its_condition():
    """Step by step, written out."""
    block = settled(ModulatedBlock(12, 3))
    x, condition = torch.randn(2, 5, 12), torch.randn(2, 12)
    parts = block.modulation(nn.functional.silu(condition)).view(2, 6, 1, 12).unbind(1)
    norm = nn.LayerNorm(12, elementwise_affine=False)

    read = norm(x) * (1 + parts[1]) + parts[0]
    queries, keys, values = block.qkv(read).view(2, 5, 3, 3, 4).unbind(2)
    rms = lambda of, layer: of * (of.square().mean(-1, keepdim=True) + 1.2e-7).rsqrt() * layer.weight  # noqa: E731
    queries, keys = rms(queries, block.query_norm), rms(keys, block.key_norm)
    weights = torch.einsum("bqhc,bkhc->bhqk", queries, keys).div(2).softmax(-1)
    mixed = torch.einsum("bhqk,bkhc->bqhc", weights, values).reshape(2, 5, 12)
    wanted = x + parts[2] * block.out(mixed)
    wanted = wanted + parts[5] * block.mlp(norm(wanted) * (1 + parts[4]) + parts[3])
    torch.testing.assert_close(block(x, condition), wanted, atol=1e-5, rtol=1e-5)


def test_rows_do_not_see_each_other():
    block, x, condition = settled(ModulatedBlock(8, 2)), torch.randn(3, 4, 8), torch.randn(3, 8)
    whole = block(x, condition)
    torch.testing.assert_close(block(x[1:2], condition[1:2]), whole[1:2])
    assert not torch.allclose(block(x, condition.flip(0)), whole)


def test_modulated_by_nothing_is_the_same():
    x, none = torch.randn(2, 3, 4), torch.zeros(2, 1, 4)
    assert torch.equal(modulated(x, none, none), x)


@pytest.mark.parametrize("apart", [0.001, 0.1, 1.0])
def test_times_are_told_apart(apart):
    times = settled(Times(16))
    first, second = times(torch.tensor([0.0, apart]))
    assert (first - second).abs().max() > 1e-3
    assert not any(name == "rates" for name in times.state_dict())

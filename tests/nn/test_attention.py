"""Which kernel attends, and that all mean the same."""

import pytest
import torch
import torch.nn.functional as F

from digit.nn import attention as module
from digit.nn.attention import attention


@pytest.fixture
def taken(monkeypatch):
    """As if this were an H200; the calls that our kernel got."""
    pytest.importorskip("triton")
    from digit.fast.kernels import full_attention

    calls = []

    def stand_in(queries, keys, values):
        calls.append(keys.shape[2])
        return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)

    monkeypatch.setattr(full_attention, "full_attention", stand_in)
    monkeypatch.setattr(module, "has_kernels", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    return calls


def heads(b, t, h=2, c=64, dtype=torch.bfloat16):
    torch.manual_seed(0)
    return torch.randn(b, t, 3, h, c).to(dtype).permute(2, 0, 3, 1, 4).unbind(0)


@pytest.mark.parametrize("causal", [False, True])
def test_heads_come_side_by_side(causal):
    q, k, v = heads(2, 9, c=8, dtype=torch.float32)
    scores = q @ k.transpose(2, 3) * 8**-0.5
    if causal:
        scores.masked_fill_(torch.ones(9, 9, dtype=torch.bool).triu(1), float("-inf"))
    wanted = (scores.softmax(3) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(q, k, v, causal=causal), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("length", "ours"), [(128, 0), (129, 1), (160, 1), (161, 0), (256, 0), (261, 1)])
def test_our_kernel_is_for_a_little_above_a_multiple(taken, length, ours):
    attention(*heads(1, length))
    assert len(taken) == ours


def test_our_kernel_is_for_what_was_measured(taken, monkeypatch):
    attention(*heads(1, 129), causal=True)
    attention(*heads(1, 129, dtype=torch.float32))
    attention(*heads(1, 129, c=32))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    attention(*heads(1, 129))
    assert taken == []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    attention(*heads(1, 129))
    assert taken == [129]

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import digit.nn.dropout
from digit.nn.dropout import Dropout, kept


def keys(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1 << 24, (2,), dtype=torch.int32, generator=generator)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_masks_keep_their_share_in_every_row_column_and_bit_of_the_place(share):
    mask = kept(torch.Size((1024, 1024)), keys(0), share).double()
    deviation = (share * (1 - share)) ** 0.5
    assert abs(mask.mean() - (1 - share)) < 5 * deviation / 1024
    for sums in (mask.mean(0), mask.mean(1)):
        assert ((sums - (1 - share)).abs() < 6 * deviation / 32).all()
        assert sums.std() == pytest.approx(deviation / 32, rel=0.15)  # as of independent places
    flat = mask.flatten()
    for distance in (1, 2, 3, 7, 16, 64, 1024, 4096, 65536):
        both = (flat[distance:] - flat.mean()) * (flat[:-distance] - flat.mean())
        assert abs(both.mean()) < 5 * deviation**2 / 1024, distance


def test_masks_of_other_keys_and_of_other_modules_are_independent():
    shape = torch.Size((512, 512))
    masks = [kept(shape, keys(seed), 0.1, first=first).double() for seed in range(6) for first in (0, 1, 2)]
    masks += [kept(shape, torch.tensor([1, 2 + i], dtype=torch.int32), 0.1).double() for i in range(4)]
    masks += [kept(shape, torch.tensor([3 + i, 2], dtype=torch.int32), 0.1).double() for i in range(4)]
    rows = torch.stack([mask.flatten() for mask in masks])
    # Two modules of one call have keys of their own: equal keys with another first place are one mask, moved.
    rows = rows[[i for i in range(len(rows)) if i >= 18 or i % 3 == 0]]
    correlations = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlations.abs().max() < 5 / 512


def test_values_are_scaled_and_gradients_follow_the_mask(monkeypatch):
    monkeypatch.setattr(digit.nn.dropout, "hashed", lambda x: True)
    x = torch.rand(50, 40, requires_grad=True)
    torch.manual_seed(0)
    y = Dropout(0.25)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    factor = torch.where(y == 0, 0.0, 1 / 0.75)
    torch.testing.assert_close(y, x * factor)
    torch.testing.assert_close(gradient, factor)
    assert 0.7 < (y != 0).double().mean() < 0.8
    assert not torch.equal(Dropout(0.25)(x), y)
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.25)(x), y)


def test_elsewhere_it_is_torchs_own():
    x = torch.rand(5, 4)
    torch.manual_seed(0)
    y = Dropout(0.25, 3)(x)
    torch.manual_seed(0)
    assert torch.equal(y, F.dropout(x, 0.25))
    assert torch.equal(Dropout(0.25).eval()(x), x) and torch.equal(Dropout(0.0)(x), x)


STORED = """
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd

import digit.nn.dropout
from digit.nn.transformer import Transformer, TransformerConfig

digit.nn.dropout.hashed = lambda x: True

def forward(graph, inputs):
    (output,) = [node for node in graph.graph.nodes if node.op == "output"]
    for node in output.args[0]:
        value = getattr(node, "meta", {}).get("val")
        if isinstance(value, torch.Tensor) and value.numel() >= 160:
            print(value.dtype)
    return make_boxed_func(graph.forward)

backend = aot_autograd(
    fw_compiler=forward,
    bw_compiler=lambda graph, inputs: make_boxed_func(graph.forward),
    partition_fn=min_cut_rematerialization_partition,
)
model = Transformer(TransformerConfig(16, 3, 2, dropout=0.1))
torch.compile(model, backend=backend)(torch.randn(2, 5, 16)).sum().backward()
"""


def test_compiled_masks_are_not_stored():
    """What a compiled stack keeps for its backward pass has no mask, neither as bool nor as int32."""
    # In a process of its own: the compiler does not take functions whose types are checked.
    done = subprocess.run([sys.executable, "-c", STORED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"torch.float32"}

"""What a stage is given to train faster: a loss that makes its gradient, hashed masks, and kernels."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import digit.fast
from digit.fast import training
from digit.fast.training import HashedDropout, kept, use
from digit.nn import losses
from digit.prior import Prior, PriorConfig

GPU = torch.device("cuda")


def prior(norm="post"):
    return Prior(PriorConfig(8, 4, width=8, layers=2, heads=2, norm=norm))


def by_kernels(stage):
    return "forward" in vars(stage.transformer)


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(digit.fast, "usable", lambda device: device.type == "cuda")


def test_one_stage_is_given_all(hopper):
    stage, other = prior(), prior()
    assert use(stage, GPU, bf16=True, sharded=False) is None
    assert by_kernels(stage) and stage.cross_entropy is training.cross_entropy
    dropouts = [part for part in stage.modules() if isinstance(part, torch.nn.Dropout)]
    assert [part.first for part in dropouts] == [0, 1, 2, 3, 4]
    assert not by_kernels(other) and other.cross_entropy is losses.cross_entropy
    assert not any(isinstance(part, HashedDropout) for part in other.modules())
    assert stage.state_dict().keys() == other.state_dict().keys()


def test_a_stage_may_go_without_kernels(hopper):
    stage = prior()
    assert use(stage, GPU, bf16=False, sharded=True, kernels=False) is None
    assert not by_kernels(stage) and stage.cross_entropy is training.cross_entropy
    block = stage.transformer.blocks[1]
    assert (block.attention_dropout.first, block.mlp_dropout.first) == (1, 2)  # a compiled whole of its own


ONE_AFTER_ANOTHER = """
import functools, torch
from digit.fast.blocks import forward
from digit.nn.batch import CodeBatch
from digit.prior import Prior, PriorConfig
for kernels in (True, False, True):
    stage = Prior(PriorConfig(8, 4, width=8, layers=1, heads=2)).train()
    if kernels:
        stage.transformer.forward = functools.partial(forward, stage.transformer)
    torch.compile(stage.loss, backend="aot_eager")(CodeBatch(torch.randint(8, (2, 4)))).backward()
"""


def test_a_stage_without_kernels_compiles_after_one_with_them():
    """What the compiler made for the one must not run for the other."""
    command = [sys.executable, "-c", ONE_AFTER_ANOTHER]  # without the type checks of this process
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_cpu_keeps_the_plain_stage():
    stage = prior()
    assert "need a GPU" in (use(stage, torch.device("cpu"), bf16=True, sharded=False) or "")
    assert not by_kernels(stage) and stage.cross_entropy is losses.cross_entropy
    assert not any(isinstance(part, HashedDropout) for part in stage.modules())


@pytest.mark.parametrize(
    ("stage", "changes", "reason"),
    [
        (prior(), {"bf16": False}, "precision is fp32"),
        (prior(), {"sharded": True}, "sharded"),
        (prior("pre"), {}, "pre-norm"),
        (torch.nn.Linear(2, 2), {}, "no transformer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sentence_says_why_there_are_no_kernels(stage, changes, reason, hopper):
    assert reason in (use(stage, GPU, **{"bf16": True, "sharded": False, **changes}) or "")


def test_old_cards_and_missing_triton(monkeypatch, hopper):
    monkeypatch.setattr(digit.fast, "usable", lambda device: False)
    assert use(prior(), GPU, bf16=True, sharded=False) == "Triton is not installed"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "computes in bf16" in (use(prior(), GPU, bf16=True, sharded=False) or "")


def inputs(rows=9, width=6, kinds=13):
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)
    table = torch.randn(kinds, width, dtype=torch.float64, requires_grad=True)
    return hidden, table, torch.randint(kinds, (rows,))


def reference(hidden, table, targets, smoothing, counted):
    rows = slice(None) if counted is None else counted
    return F.cross_entropy((hidden @ table.T)[rows], targets[rows], label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("counted", [None, torch.arange(9) % 3 != 1])
@pytest.mark.parametrize("part", [1 << 26, 64 * 2])  # all rows at once, or two
@pytest.mark.parametrize("kinds", [13, 64])  # with and without columns that fill up to a multiple of 64
def test_loss_and_gradients_are_those_of_torchs_function(smoothing, counted, part, kinds, monkeypatch):
    monkeypatch.setattr(training, "PART", part)
    hidden, table, targets = inputs(kinds=kinds)
    expected = reference(hidden, table, targets, smoothing, counted)
    gradients = torch.autograd.grad(expected * 0.25, (hidden, table))
    plain = training.cross_entropy(hidden, table, targets, label_smoothing=smoothing, counted=counted)
    torch.testing.assert_close(plain, expected, rtol=1e-12, atol=0)  # on a CPU, where it is the plain one
    fused = training._Fused.apply(hidden, table, targets, smoothing, counted)
    made = torch.autograd.grad(fused * 0.25, (hidden, table))  # 0.25: a micro-batch's share
    # Inside, logarithms and the table's gradient are in float32.
    torch.testing.assert_close(fused, expected.float(), rtol=1e-6, atol=0)
    for one, other in zip(made, gradients, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_in_bfloat16_it_is_as_near_to_the_truth_as_torchs_own(monkeypatch):
    hidden, table, targets = (
        value.float() if value.is_floating_point() else value for value in inputs(512, 32, 300)
    )
    hidden, table = hidden.detach().requires_grad_(), table.detach().requires_grad_()
    exact = torch.autograd.grad(reference(hidden, table, targets, 0.1, None), (hidden, table))
    errors = {}
    for name, chosen in (("torch", False), ("fused", True)):
        monkeypatch.setattr(training, "fused", lambda hidden, chosen=chosen: chosen)
        with torch.autocast("cpu", torch.bfloat16):
            loss = training.cross_entropy(hidden, table, targets, label_smoothing=0.1)
        made = torch.autograd.grad(loss, (hidden, table))
        errors[name] = [float((a - b).norm() / b.norm()) for a, b in zip(made, exact, strict=True)]
    for mine, theirs in zip(errors["fused"], errors["torch"], strict=True):
        assert mine < 0.01 and mine < 1.2 * theirs


def test_without_gradients_it_is_torchs_own():
    hidden, table, targets = inputs()
    with torch.no_grad():
        loss = training.cross_entropy(hidden, table, targets, label_smoothing=0.1)
    assert torch.equal(loss, F.cross_entropy(F.linear(hidden, table), targets, label_smoothing=0.1))


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
    monkeypatch.setattr(training, "hashed", lambda x: True)
    x = torch.rand(50, 40, requires_grad=True)
    torch.manual_seed(0)
    y = HashedDropout(0.25)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    factor = torch.where(y == 0, 0.0, 1 / 0.75)
    torch.testing.assert_close(y, x * factor)
    torch.testing.assert_close(gradient, factor)
    assert 0.7 < (y != 0).double().mean() < 0.8
    assert not torch.equal(HashedDropout(0.25)(x), y)
    torch.manual_seed(0)
    assert torch.equal(HashedDropout(0.25)(x), y)


def test_elsewhere_it_is_torchs_own():
    x = torch.rand(5, 4)
    torch.manual_seed(0)
    y = HashedDropout(0.25, 3)(x)
    torch.manual_seed(0)
    assert torch.equal(y, F.dropout(x, 0.25))
    assert torch.equal(HashedDropout(0.25).eval()(x), x) and torch.equal(HashedDropout(0.0)(x), x)


STORED = """
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd

from digit.fast import training
from digit.nn.transformer import Transformer, TransformerConfig

training.hashed = lambda x: True

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
training.hash_dropout(model, sharded=False)
torch.compile(model, backend=backend)(torch.randn(2, 5, 16)).sum().backward()
"""


def test_compiled_masks_are_not_stored():
    """What a compiled stack keeps for its backward pass has no mask, neither as bool nor as int32."""
    # In a process of its own: the compiler does not take functions whose types are checked.
    done = subprocess.run([sys.executable, "-c", STORED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"torch.float32"}

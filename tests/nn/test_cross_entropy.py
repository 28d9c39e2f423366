import pytest
import torch
import torch.nn.functional as F

import digit.nn.cross_entropy
from digit.nn.cross_entropy import _Fused, cross_entropy


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
    monkeypatch.setattr(digit.nn.cross_entropy, "PART", part)
    hidden, table, targets = inputs(kinds=kinds)
    expected = reference(hidden, table, targets, smoothing, counted)
    gradients = torch.autograd.grad(expected * 0.25, (hidden, table))
    plain = cross_entropy(hidden, table, targets, label_smoothing=smoothing, counted=counted)
    torch.testing.assert_close(plain, expected, rtol=1e-12, atol=0)
    fused = _Fused.apply(hidden, table, targets, smoothing, counted)
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
        monkeypatch.setattr(digit.nn.cross_entropy, "fused", lambda hidden, chosen=chosen: chosen)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(hidden, table, targets, label_smoothing=0.1)
        made = torch.autograd.grad(loss, (hidden, table))
        errors[name] = [float((a - b).norm() / b.norm()) for a, b in zip(made, exact, strict=True)]
    for mine, theirs in zip(errors["fused"], errors["torch"], strict=True):
        assert mine < 0.01 and mine < 1.2 * theirs


def test_without_gradients_it_is_torchs_own():
    hidden, table, targets = inputs()
    with torch.no_grad():
        loss = cross_entropy(hidden, table, targets, label_smoothing=0.1)
    assert torch.equal(loss, F.cross_entropy(F.linear(hidden, table), targets, label_smoothing=0.1))

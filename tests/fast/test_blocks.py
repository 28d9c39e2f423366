"""Blocks in training by kernels beside the plain blocks."""

import functools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import digit.fast.blocks
from digit.fast.blocks import blocks, fits, forward
from digit.fast.kernels import add_norm, gelu, heads
from digit.nn.transformer import Transformer, TransformerConfig


def model(width, heads, dropout=0.0, layers=2, causal=True):
    torch.manual_seed(0)
    made = Transformer(TransformerConfig(width, layers, heads, dropout=dropout, causal=causal)).train()
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.3
    return made


def few_programs(monkeypatch):
    """Fewer of them than rows, so that each has several turns."""
    monkeypatch.setattr(add_norm, "PROGRAMS", 9)
    for module in (gelu, heads):
        monkeypatch.setattr(module, "STRIPS", 2)


def both(made, x, gradient):
    """Outputs and all gradients of the plain blocks and of the kernels."""
    for form in (made, lambda x: blocks(made, x)):
        y = form(x)
        yield [y, *torch.autograd.grad((y * gradient).sum(), [x, *made.parameters()])]


@pytest.mark.parametrize(("width", "heads", "causal"), [(64, 4, True), (48, 3, False)])
def test_blocks_and_all_their_gradients_are_those_of_the_plain_ones(monkeypatch, width, heads, causal):
    few_programs(monkeypatch)
    made = model(width, heads, causal=causal)
    x = torch.randn(3, 7, width, requires_grad=True)
    plain, fast = both(made, x, torch.randn_like(x))
    for a, b in zip(plain, fast, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * float(a.detach().abs().max()))


def test_in_bf16_weights_keep_float32_gradients():
    made = model(64, 4)
    x = torch.randn(3, 7, 64).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        plain, fast = both(made, x, torch.randn_like(x))
    for a, b in zip(plain, fast, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert (a - b).norm() < 0.02 * a.norm()


def test_dropout_follows_torchs_generator():
    made, x = model(32, 2, dropout=0.3), torch.randn(2, 5, 32)
    torch.manual_seed(1)
    first, second = blocks(made, x), blocks(made, x)
    torch.manual_seed(1)
    assert torch.equal(blocks(made, x), first) and not torch.equal(first, second)


def test_they_run_only_where_they_can():
    x = torch.randn(2, 5, 32)

    def on_a_gpu(dtype):
        return FakeTensor(FakeTensorMode(), x.to("meta", dtype), torch.device("cuda:0"))

    assert fits(on_a_gpu(torch.bfloat16))
    assert not fits(on_a_gpu(torch.float32)) and not fits(x.bfloat16())
    with torch.no_grad():
        assert not fits(on_a_gpu(torch.bfloat16))


def test_a_transformer_that_is_given_them_trains_by_them(monkeypatch):
    made = model(32, 2)
    x = torch.randn(2, 5, 32)
    plain = made(x)
    made.forward = functools.partial(forward, made)
    assert torch.equal(made(x), plain)  # float32 is not theirs
    monkeypatch.setattr(digit.fast.blocks, "fits", lambda x: True)
    torch.testing.assert_close(made(x), plain, rtol=1e-4, atol=1e-5)
    assert not torch.equal(made(x), plain)
    assert torch.equal(made.eval()(x), plain)  # nor is inference

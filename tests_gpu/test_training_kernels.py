"""The kernels of training against float64 at the published shapes, within what number formats allow."""

import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels.add_norm import AddNorm
from digit.fast.kernels.gelu import BiasGelu
from digit.fast.kernels.heads import Heads

IMAGES, LENGTH, WIDTH, HEADS, SHARE = 64, 256, 1024, 16, 0.1
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture
def random(device):
    """Normal numbers around a mean, on the GPU."""

    def draw(*shape, dtype=torch.float32, mean=0.0):
        numbers = torch.randn(shape, device=device) * 0.5 + mean
        return numbers.to(dtype).requires_grad_()

    return draw


def doubles(*inputs):
    """The same numbers in float64, for a reference with gradients."""
    return [each.detach().double().requires_grad_() for each in inputs]


@DTYPES
def test_sum_dropout_and_norm(dtype, random, device, near, record):
    rows = IMAGES * LENGTH
    branch, residual = random(rows, WIDTH, dtype=dtype), random(rows, WIDTH, dtype=dtype)
    bias, gain, shift = random(WIDTH), random(WIDTH, mean=1.0), random(WIDTH)
    seeds = torch.tensor([5, -6], dtype=torch.int32, device=device)

    def kernel(branch, bias, residual, gain, shift):
        return AddNorm.apply(branch, bias, residual, gain, shift, seeds, 1, SHARE, 1e-5)

    zeros, ones = torch.zeros_like(branch), torch.ones_like(bias)
    kept = kernel(zeros + 1, 0 * ones, zeros, ones, 0 * ones)[0] > 0  # what was dropped is below the mean
    dropped = 1 - float(kept.double().mean())
    record("dropped", dropped)
    assert abs(dropped - SHARE) < 5 * (SHARE * (1 - SHARE) / kept.numel()) ** 0.5

    inputs = [branch, bias, residual, gain, shift]
    first, second = kernel(*inputs)
    assert torch.equal(first, second)
    b, c, r, g, s = exact = doubles(*inputs)
    z = r + torch.where(kept, (b + c) / (1 - SHARE), 0.0)
    wanted = F.layer_norm(z, (WIDTH,), g, s, 1e-5)
    with torch.no_grad():
        terms = (r.abs() + kept * (b.abs() + c.abs()) / (1 - SHARE)).amax(1, keepdim=True)
        scale = (z.var(1, correction=0, keepdim=True) + 1e-5).rsqrt()
        normal = ((z - z.mean(1, keepdim=True)) * scale).abs()
        near("values", first, wanted, terms * scale * g.abs() + s.abs())

    given = [random(rows, WIDTH, dtype=dtype).detach() for _ in range(2)]
    found = torch.autograd.grad((first, second), inputs, given)
    dy = given[0].double() + given[1].double()
    right = torch.autograd.grad(wanted, exact, dy)
    with torch.no_grad():
        inner = (dy * g).abs()
        along = normal.amax(1, keepdim=True) * (inner * normal).mean(1, keepdim=True)
        dz = scale * (inner + inner.mean(1, keepdim=True) + along)
        sizes = [dz / (1 - SHARE), dz.sum(0) / (1 - SHARE), dz]
        sizes += [(dy.abs() * (1 + normal)).sum(0), dy.abs().sum(0)]
    names = ("branch", "bias", "residual", "gain", "shift")
    for name, *each in zip(names, found, right, sizes, strict=True):
        near(f"gradient of the {name}", *each, ulps=8)


@DTYPES
def test_gelu(dtype, random, near):
    rows = IMAGES * LENGTH
    inputs = [random(rows, 4 * WIDTH, dtype=dtype), random(4 * WIDTH)]
    found, exact = BiasGelu.apply(*inputs), doubles(*inputs)
    x = exact[0] + exact[1]
    wanted = F.gelu(x)
    near("values", found, wanted, x.abs())  # the curve itself is right to 1e-7 of x
    given = random(rows, 4 * WIDTH, dtype=dtype).detach()
    gradients = torch.autograd.grad(found, inputs, given)
    right, size = torch.autograd.grad(wanted, exact, given.double()), given.double().abs()
    near("gradient of the hidden values", gradients[0], right[0], size)
    near("gradient of the bias", gradients[1], right[1], size.sum(0))


@DTYPES
def test_heads(dtype, random, record, near):
    rows, each = IMAGES * LENGTH, WIDTH // HEADS
    x, weight, bias = random(rows, WIDTH, dtype=dtype), random(3 * WIDTH, WIDTH), random(3 * WIDTH)
    found = Heads.apply(x, weight, bias, IMAGES, HEADS)
    a, w, c = doubles(x, weight.to(dtype), bias.to(dtype))

    def split(joined):
        return joined.view(IMAGES, LENGTH, 3, HEADS, each).permute(2, 0, 3, 1, 4).unbind(0)

    wanted = split(F.linear(a, w, c))
    with torch.no_grad():
        sizes = split(F.linear(a.abs(), w.abs(), c.abs()))
    for name, *three in zip(("queries", "keys", "values"), found, wanted, sizes, strict=True):
        near(name, *three)

    given = [torch.randn_like(part) for part in found]
    gradients = torch.autograd.grad(found, [x, weight, bias], given)
    right = torch.autograd.grad(wanted, [a, w, c], [part.double() for part in given])
    joined = torch.stack(given).permute(1, 3, 0, 2, 4).reshape(rows, 3 * WIDTH).double().abs()
    near("gradient of x", gradients[0], right[0], joined @ w.abs())
    near("gradient of the bias", gradients[2], right[2], joined.sum(0))
    # Added up by the library, in parts that it may round to bfloat16 before it joins them.
    apart = float((gradients[1].double() - right[1]).norm() / right[1].norm())
    record("gradient of the weight: relative distance", apart)
    assert apart < (torch.finfo(dtype).eps if dtype == torch.bfloat16 else rows**0.5 * 2**-23)

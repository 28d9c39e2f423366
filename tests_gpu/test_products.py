"""Products and norms of decoding at the published shapes against float64, for few rows and for many."""

import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels.linear import FEW, PART, SPREAD, counters, linear
from digit.fast.kernels.norm import norm

WIDTH, HEAD, MANY = 1024, 8197, SPREAD + 1
SHAPES = [  # inputs and outputs in widths, GELU, residual: of a block
    *[(1, 3, "", False), (1, 1, "", True), (1, 4, "tanh", False), (1, 4, "exact", False), (4, 1, "", True)]
]
ROWS = [1, 2, FEW, FEW + 1, MANY]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture
def random(device):
    """Normal numbers on the GPU."""
    return lambda *shape, dtype=torch.float32: torch.randn(shape, device=device).to(dtype)


@pytest.fixture
def ways(device):
    """A product whole, in parts, and in parts by a launch that overlaps with the one before, where it can."""
    hopper = torch.cuda.get_device_capability(device) >= (9, 0)

    def given(rows, outputs):
        arrived = counters(outputs, device)
        yield "whole", {}
        yield "in parts", {"parts": True, "arrived": arrived}
        if hopper and rows <= FEW:
            yield "chained", {"parts": True, "arrived": arrived, "chained": True}
        assert not arrived.any()

    return given


@DTYPES
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("inputs", "outputs", "gelu", "added"), SHAPES)
def test_products(inputs, outputs, gelu, added, rows, dtype, random, ways, near):
    inputs, outputs = inputs * WIDTH, outputs * WIDTH
    x, matrix = random(rows, inputs, dtype=dtype), (random(outputs, inputs) / inputs**0.5).to(dtype)
    bias, residual = random(outputs), random(rows, outputs, dtype=dtype) if added else None
    wide, table, shift = x.double(), matrix.double(), bias.double()
    wanted, size = F.linear(wide, table, shift), F.linear(wide.abs(), table.abs(), shift.abs())
    if gelu:
        wanted = F.gelu(wanted, approximate="tanh" if gelu == "tanh" else "none")
    if residual is not None:
        wanted, size = wanted + residual.double(), size + residual.double().abs()
    for name, how in ways(rows, outputs):
        near(name, linear(x, matrix, bias, gelu=gelu, residual=residual, **how), wanted, size)


@DTYPES
@pytest.mark.parametrize("rows", ROWS)
def test_logits_are_float32(rows, dtype, random, ways, near):
    x, matrix = random(rows, WIDTH, dtype=dtype), random(HEAD, WIDTH, dtype=dtype)
    wanted, size = x.double() @ matrix.double().T, x.double().abs() @ matrix.double().abs().T
    for name, how in ways(rows, HEAD):
        found = linear(x, matrix, dtype=torch.float32, **how)
        assert found.dtype == torch.float32
        near(name, found, wanted, size)


@DTYPES
@pytest.mark.parametrize("rows", [1, 64, 2048])
def test_norms(rows, dtype, random, near):
    x, (weight, bias) = random(rows, WIDTH, dtype=dtype), random(2, WIDTH)
    exact, gain, shift = x.double(), weight.double(), bias.double()
    scale = (exact.var(1, correction=0, keepdim=True) + 1e-5).rsqrt()
    size = exact.abs().amax(1, keepdim=True) * scale * gain.abs() + shift.abs()
    near("values", norm(x, weight, bias), F.layer_norm(exact, (WIDTH,), gain, shift), size)


def test_some_sums_come_in_parts():
    assert 4 * WIDTH > PART

"""The kernels' noise is that of the plain path, to the bit."""

import pytest
import torch
import triton
import triton.language as tl

from digit.fast.kernels.noise import gaussians, gumbel, gumbels
from digit.nn import noise


@triton.jit
def store(keys, out, place, step, count, block: tl.constexpr):
    row, v = tl.program_id(0), tl.arange(0, block)
    tl.store(out + row * count + v, gumbel(keys + 2 * row, place, step, block), mask=v < count)


@pytest.mark.parametrize(
    ("count", "block", "place", "step"), [(37, 64, 5, 2), (8, 8, 2**20, 0), (7, 64, 0, 1)]
)
def test_bits_are_those_of_the_plain_path(count, block, place, step):
    keys, out = noise.keys([0, 2**63 + 5, -7], stage="test"), torch.empty(3, count)
    store[(3,)](keys, out, place, step, count, block=block, enable_fp_fusion=False)
    assert torch.equal(out, noise.gumbels(keys, torch.tensor(place), count, step=step))


def test_all_places_at_once():
    keys = noise.keys([3, 2**70], stage="test")
    whole = noise.gumbels(keys.unsqueeze(1), torch.arange(3), 21)
    assert torch.equal(gumbels(keys, 3, 21), whole)


@pytest.mark.parametrize("count", [5, 3 * 32**2])
def test_normal_numbers_are_those_of_the_plain_path(count):
    keys = noise.keys([3, 2**70], stage="test")
    assert torch.equal(gaussians(keys, count), noise.gaussians.plain(keys, count))

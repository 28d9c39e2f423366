"""Between the passes of the masked renderer: kernels against torch."""

import pytest
import torch

from digit.fast.kernels.filling import embed, settle
from digit.renderer_masked import settle as plain_settle


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
    wanted = plain_settle(plain, masked, drawn, **how)
    found = settle(fast, masked, drawn, **how)
    assert torch.equal(found, wanted.sort().values)  # in the order of the list
    assert torch.equal(fast, plain) and (plain == 99).sum() == 3 * left


def test_of_equally_sure_ones_the_first_are_masked_again():
    masked = torch.arange(6).repeat(1, 1)
    how = {"confidence": torch.zeros(1, 6), "noise": 0.0, "left": 2, "mask": 9}
    gumbel = torch.zeros(1, 6, dtype=torch.float64)
    vq_codes = torch.zeros(1, 6, dtype=torch.int64)
    still = settle(vq_codes, masked, masked.clone(), gumbel=gumbel, **how)
    assert still.tolist() == [[0, 1]] and vq_codes.tolist() == [[9, 9, 2, 3, 4, 5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_next_input(dtype):
    torch.manual_seed(0)
    prefix, table, positions = torch.randn(2, 3, 20), torch.randn(7, 20), torch.randn(5, 20)
    vq_codes = torch.randint(7, (2, 5))
    wanted = torch.cat((prefix, table[vq_codes] + positions), dim=1).to(dtype)
    found = embed(prefix, table, positions, vq_codes, dtype)
    assert torch.equal(found, wanted)

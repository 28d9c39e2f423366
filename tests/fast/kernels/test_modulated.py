"""A gated sum with its modulated norm, and the norms of heads, beside torch's own."""

import torch
import torch.nn.functional as F

from digit.fast.kernels.modulated import add_modulate, norm_heads
from digit.nn.modulated import EPS, modulated


def test_a_gated_sum_its_norm_and_the_condition_of_each_picture():
    torch.manual_seed(0)
    pictures, tokens, width = 3, 5, 40
    x, branch = torch.randn(pictures * tokens, width), torch.randn(pictures * tokens, width)
    told = torch.randn(pictures, 7 * width).split(width, 1)  # columns of something wider
    shift, scale, gate = told[1], told[4], told[6]
    summed = (x.view(pictures, tokens, width) + gate[:, None] * branch.view(pictures, tokens, width)).flatten(
        0, 1
    )
    wide = F.layer_norm(summed, (width,)).view(pictures, tokens, width)
    wanted = modulated(wide, shift[:, None], scale[:, None]).flatten(0, 1)
    kept = x.clone()
    found = add_modulate(kept, shift, scale, gate=gate, branch=branch, dtype=torch.float32)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept, summed, rtol=1e-6, atol=1e-6)


def test_without_a_branch_nothing_is_added():
    x, told = torch.randn(4, 24), torch.randn(2, 48).split(24, 1)
    kept = x.clone()
    found = add_modulate(kept, *told, dtype=torch.bfloat16)
    wanted = modulated(F.layer_norm(x, (24,)).view(2, 2, 24), *(each[:, None] for each in told)).view(4, 24)
    assert torch.equal(kept, x) and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.01, atol=0.01)


def test_queries_and_keys_are_normed_by_heads_and_values_left():
    rows, heads, each = 6, 3, 12
    qkv, gains = torch.randn(rows, 3 * heads * each), torch.rand(2, each) + 0.5
    parts = qkv.clone().view(rows, 3, heads, each).unbind(1)
    found = norm_heads(qkv, *gains, heads=heads, eps=EPS).view(rows, 3, heads, each)
    for place, gain in enumerate(gains):
        torch.testing.assert_close(found[:, place], F.rms_norm(parts[place], (each,), gain, EPS))
    assert torch.equal(found[:, 2], parts[2])

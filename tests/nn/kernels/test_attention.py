import pytest
import torch
import torch.nn.functional as F

from digit.nn.kernels.attention import attend


@pytest.mark.parametrize("channels", [16, 20])
@pytest.mark.parametrize("filled", [0, 1, 5, 11])
def test_attends_to_the_filled_part_and_writes_behind_it(channels, filled):
    torch.manual_seed(filled)
    rows, heads, room = 2, 3, 12
    keys, values = torch.randn(2, rows, heads, room, channels).unbind(0)
    qkv = torch.randn(rows, 3 * heads * channels)
    query, key, value = qkv.view(rows, 3, heads, channels).unbind(1)
    whole = [keys.clone(), values.clone()]
    whole[0][:, :, filled], whole[1][:, :, filled] = key, value
    seen = [each[:, :, : filled + 1] for each in whole]
    wanted = F.scaled_dot_product_attention(query[:, :, None], *seen).reshape(rows, -1)
    mixed = torch.full((rows, heads * channels), float("nan"))
    counter = torch.tensor(filled - 1, dtype=torch.int32)
    attend(qkv, keys, values, mixed, counter, offset=1, block=4, warps=1)
    torch.testing.assert_close(mixed, wanted, atol=1e-6, rtol=1e-5)
    assert torch.equal(keys, whole[0]) and torch.equal(values, whole[1])  # nothing else was touched


def test_eight_bits_keep_vectors_to_a_few_per_cent():
    torch.manual_seed(0)
    rows, heads, room, channels = 2, 2, 6, 16
    exact = [torch.zeros(rows, heads, room, channels) for _ in range(2)]
    eight = [torch.zeros(rows, heads, room, channels, dtype=torch.float8_e4m3fn) for _ in range(2)]
    scales = tuple(torch.zeros(rows, heads, room, dtype=torch.float16) for _ in range(2))
    counter = torch.tensor(0, dtype=torch.int32)
    plain, small = torch.empty(2, rows, heads * channels).unbind(0)
    for position in range(room):
        qkv = torch.randn(rows, 3 * heads * channels)
        attend(qkv, *exact, plain, counter, offset=position, block=4, warps=1)
        attend(qkv, *eight, small, counter, offset=position, scales=scales, block=4, warps=1)
        assert (plain - small).norm() < 0.05 * plain.norm()
    restored = eight[0].float() * scales[0].float().unsqueeze(-1)
    assert (restored - exact[0]).abs().max() <= exact[0].abs().max() / 16  # 3 bits of mantissa

import pytest
import torch
import torch.nn.functional as F

from digit.fast.kernels import attention
from digit.fast.kernels.attention import attend


@pytest.fixture(params=[0, 512], ids=["one program", "a program each window"])
def arrived(request, monkeypatch):
    monkeypatch.setattr(attention, "PAIRS", request.param)
    counters = torch.zeros(6, dtype=torch.int32)
    yield counters
    assert not counters.any()


@pytest.mark.parametrize("channels", [16, 20])
@pytest.mark.parametrize("filled", [0, 1, 5, 8, 9, 16, 21])
def test_attends_to_the_filled_part_and_writes_behind_it(arrived, channels, filled):
    torch.manual_seed(filled)
    rows, heads, room = 2, 3, 22
    keys, values = torch.randn(2, rows, heads, room, channels).unbind(0)
    qkv = torch.randn(rows, 3 * heads * channels)
    query, key, value = qkv.view(rows, 3, heads, channels).unbind(1)
    whole = [keys.clone(), values.clone()]
    whole[0][:, :, filled], whole[1][:, :, filled] = key, value
    seen = [each[:, :, : filled + 1] for each in whole]
    wanted = F.scaled_dot_product_attention(query[:, :, None], *seen).reshape(rows, -1)
    mixed = torch.full((rows, heads * channels), float("nan"))
    counter = torch.tensor(filled - 1, dtype=torch.int32)
    attend(qkv, keys, values, mixed, counter, arrived=arrived, offset=1)
    torch.testing.assert_close(mixed, wanted, atol=1e-6, rtol=1e-5)
    assert torch.equal(keys, whole[0]) and torch.equal(values, whole[1])  # nothing else was touched


def test_one_program_and_one_each_window_give_the_same_bits(monkeypatch):
    torch.manual_seed(0)
    keys, values = torch.randn(2, 2, 3, 30, 16).unbind(0)
    qkv, found = torch.randn(2, 3 * 3 * 16), []
    for few in (0, 512):
        monkeypatch.setattr(attention, "PAIRS", few)
        found.append(torch.empty(2, 3 * 16))
        counter, arrived = torch.tensor(27, dtype=torch.int32), torch.zeros(6, dtype=torch.int32)
        attend(qkv, keys.clone(), values.clone(), found[-1], counter, arrived=arrived)
    assert torch.equal(*found)


def test_eight_bits_are_read_with_their_scales(arrived):
    torch.manual_seed(0)
    rows, heads, room, channels, filled = 2, 3, 20, 16, 18
    eight = [torch.randn(rows, heads, room, channels).to(torch.float8_e4m3fn) for _ in range(2)]
    scales = tuple((torch.rand(rows, heads, room) + 0.5).half() for _ in range(2))
    qkv = torch.randn(rows, 3 * heads * channels)
    query, *new = qkv.view(rows, 3, heads, channels).unbind(1)
    seen = [each.float() * scale.float().unsqueeze(-1) for each, scale in zip(eight, scales, strict=True)]
    seen = [torch.cat((each[:, :, :filled], own[:, :, None]), 2) for each, own in zip(seen, new, strict=True)]
    wanted = F.scaled_dot_product_attention(query[:, :, None], *seen).reshape(rows, -1)
    mixed, counter = torch.empty(rows, heads * channels), torch.tensor(filled, dtype=torch.int32)
    attend(qkv, *eight, mixed, counter, arrived=arrived, scales=scales)
    torch.testing.assert_close(mixed, wanted, atol=1e-5, rtol=1e-4)
    # Written vectors are not compared: the interpreter rounds 31.9 to 16 in this format, GPUs do not.
    largest = new[0].abs().amax(-1) / 448
    torch.testing.assert_close(scales[0][:, :, filled].float(), largest, atol=1e-6, rtol=1e-3)

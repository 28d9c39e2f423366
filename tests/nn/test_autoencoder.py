"""The convolutions of both VQGAN families: what single blocks do, and where attention sits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from digit.nn.autoencoder import BlockStyle, Decoder, Encoder, _Upsample

TAMING = BlockStyle(family="taming", shortcut="input", attention=True)
INPUT = BlockStyle(shortcut="input", attention=True)


def encoder(style: BlockStyle = BlockStyle(), channels: tuple[int, ...] = (8, 8, 16)) -> Encoder:  # noqa: B008
    torch.manual_seed(0)
    return Encoder(channels, blocks=2, latents=4, style=style).eval()


def test_branch_shortcut_drops_the_input_where_channels_change():
    block = encoder().down[1].block[0]
    x = torch.randn(2, 8, 4, 4)
    h = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
    torch.testing.assert_close(block(x), h + block.nin_shortcut(h))


@pytest.mark.parametrize("style", [INPUT, TAMING])
def test_input_shortcut_projects_the_input(style):
    block = encoder(style).down[1].block[0]
    x = torch.randn(2, 8, 4, 4)
    h = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
    torch.testing.assert_close(block(x), block.nin_shortcut(x) + h)


@pytest.mark.parametrize("tap", [(0, 0), (1, 1), (2, 0), (2, 2)])
def test_taming_halves_the_side_with_zeros_only_after_the_picture(tap):
    """A kernel of a single one copies every second pixel, starting at the place of that one."""
    halve = encoder(TAMING).down[0].downsample
    nn.init.zeros_(halve.conv.weight)
    nn.init.zeros_(halve.conv.bias)
    y, x = tap
    with torch.no_grad():
        halve.conv.weight[0, 0, y, x] = 1
        pixels = torch.rand(1, 8, 6, 6) + 1
        framed = F.pad(pixels[:, 0], (0, 2, 0, 2))
        assert torch.equal(halve(pixels)[:, 0], framed[:, y : y + 6 : 2, x : x + 6 : 2])


def test_maskgit_halves_the_side_by_the_mean_of_four():
    pixels = torch.rand(1, 8, 4, 4)
    halved = encoder().down[0].downsample(pixels)
    torch.testing.assert_close(halved[0, 0, 0, 1], pixels[0, 0, :2, 2:].mean())


@pytest.mark.parametrize("family", ["maskgit", "taming"])
def test_attention_reads_every_position(family):
    attend = encoder(BlockStyle(family=family, shortcut="input", attention=True)).mid.attn_1
    x = torch.randn(1, 16, 3, 4)
    torch.testing.assert_close(attend(x), x + attend.proj_out.bias[:, None, None])  # at the start, almost x
    nn.init.normal_(attend.proj_out.weight)
    moved = x.clone()
    moved[..., 2, 3] += torch.randn(16)
    assert (attend(x) - attend(moved)).abs().amax(1).min() > 1e-5


def test_taming_attention_by_hand():
    attend = encoder(TAMING).mid.attn_1
    nn.init.normal_(attend.proj_out.weight)
    x = torch.randn(1, 16, 3, 4)
    normed = attend.norm(x)
    q, k, v = (part(normed)[0].flatten(1) for part in (attend.q, attend.k, attend.v))
    weights = (q.T @ k / 4).softmax(1)  # 16 channels, one head
    expected = x + attend.proj_out((v @ weights.T).reshape(x.shape))
    torch.testing.assert_close(attend(x), expected)


@pytest.mark.parametrize("style", [INPUT, TAMING])
def test_attention_after_each_block_of_the_levels_named(style):
    style = BlockStyle(style.family, style.shortcut, False, (0,))
    down = encoder(style).down
    up = Decoder((8, 8, 16), blocks=3, latents=4, style=style).up
    assert [len(level.attn) for level in down] == [2, 0]
    assert [len(level.attn) for level in up] == [3, 0]  # both count from full resolution
    x = torch.randn(1, 8, 4, 4)
    for attend in down[0].attn:
        nn.init.normal_(attend.proj_out.weight)
    expected = x
    for block, attend in zip(down[0].block, down[0].attn, strict=True):
        expected = attend(block(expected))
    torch.testing.assert_close(down[0](x), down[0].downsample(expected))


def test_norms_have_32_groups_where_channels_allow():
    groups = {m.num_groups for m in encoder(channels=(32, 64, 96)).modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {32}
    assert encoder().norm_out.num_groups == 16
    assert encoder().norm_out.eps == 1e-6


@pytest.mark.parametrize("style", [INPUT, TAMING])
def test_latents_are_float32_under_autocast(style):
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(style)(torch.rand(1, 3, 8, 8)).dtype == torch.float32


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_gradients_pass_the_doubled_side_when_compiled_in_bfloat16():
    """The compiler's own gradient of nearest interpolation was zero there."""
    torch.manual_seed(0)
    first, last = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
    network = nn.Sequential(first, _Upsample(8), nn.GroupNorm(8, 8), nn.SiLU(), last)
    x, weights = torch.rand(2, 8, 4, 4), torch.randn(2, 8, 8, 8)
    gradients = []
    for forward in (network, torch.compile(network, dynamic=False)):
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = forward(x)
        (made.float() * weights).sum().backward()
        gradients.append(first.weight.grad)
    eager, compiled = gradients
    assert eager.abs().max() > 1
    torch.testing.assert_close(compiled, eager, atol=0.05 * float(eager.abs().max()), rtol=0)

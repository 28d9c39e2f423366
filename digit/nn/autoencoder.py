"""pixels -> latents and back: the convolutions of two published VQGANs, MaskGIT's and taming-transformers'.

Both are residual blocks in levels; between two levels the side halves (encoder) or doubles (decoder). Modules
have the names that the tensors have in the authors' files, so those load key by key.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from digit.vqgan_config import Family, Shortcut


@dataclass(frozen=True)
class BlockStyle:
    """Whose blocks an encoder and a decoder are built of, and where they attend."""

    family: Family = "maskgit"  # taming: biases everywhere, strided convolutions instead of pooling
    shortcut: Shortcut = "branch"  # what a channel change projects, see _ResidualBlock
    attention: bool = False  # an attention layer between the two middle blocks
    attention_levels: tuple[int, ...] = ()  # levels, 0 at full resolution, with one after each block


class Encoder(nn.Module):
    """Pixels, in the range that its weights know, to latents."""

    def __init__(self, channels: Sequence[int], *, blocks: int, latents: int, style: BlockStyle) -> None:
        """`channels` of the first convolution, then of each level from full resolution; `blocks` a level."""
        super().__init__()
        last = len(channels) - 2
        self.conv_in = _convolution(3, channels[0], style)
        self.down = nn.ModuleList(
            _Level(
                channels[i], channels[i + 1], blocks, style, attend=i in style.attention_levels, down=i < last
            )
            for i in range(last + 1)
        )
        self.mid = _Middle(channels[-1], style)
        self.norm_out = _norm(channels[-1])
        size = 3 if style.family == "taming" else 1
        self.conv_out = nn.Conv2d(channels[-1], latents, size, padding=size // 2)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b z gh gw"]:
        """Latents, float32: they may lie closer together than bfloat16 resolves."""
        x = self.conv_in(pixels)
        for level in self.down:
            x = level(x)
        x = F.silu(self.norm_out(self.mid(x)))
        with torch.autocast(x.device.type, enabled=False):
            return self.conv_out(x.float())


class Decoder(nn.Module):
    """Latents up to the last convolution, `conv_out`, by which the adversarial loss balances from outside."""

    def __init__(self, channels: Sequence[int], *, blocks: int, latents: int, style: BlockStyle) -> None:
        """Arguments as the encoder's: `channels` run from full resolution here too."""
        super().__init__()
        widths, inputs = channels[1:], channels[-1]
        self.conv_in = nn.Conv2d(latents, inputs, 3, padding=1)
        self.mid = _Middle(inputs, style)
        levels = []
        for i in reversed(range(len(widths))):
            levels.append(
                _Level(inputs, widths[i], blocks, style, attend=i in style.attention_levels, up=i > 0)
            )
            inputs = widths[i]
        self.up = nn.ModuleList(reversed(levels))  # the files count from full resolution
        self.norm_out = _norm(inputs)
        self.conv_out = nn.Conv2d(inputs, 3, 3, padding=1)

    def forward(self, latents: Float[Tensor, "b z gh gw"]) -> Float[Tensor, "b c h w"]:
        """What `conv_out` turns into pixels."""
        x = self.mid(self.conv_in(latents))
        for i in reversed(range(len(self.up))):
            x = self.up[i](x)
        return F.silu(self.norm_out(x))


class _Level(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        style: BlockStyle,
        *,
        attend: bool,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            _ResidualBlock(outputs if i else inputs, outputs, style) for i in range(blocks)
        )
        self.attn = nn.ModuleList(_attention(outputs, style) for _ in range(blocks if attend else 0))
        halve = _Downsample if style.family == "taming" else lambda _: nn.AvgPool2d(2)
        self.downsample = halve(outputs) if down else nn.Identity()
        self.upsample = _Upsample(outputs) if up else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, style: BlockStyle) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = _convolution(inputs, outputs, style)
        self.norm2 = _norm(outputs)
        self.conv2 = _convolution(outputs, outputs, style)
        self.from_branch = style.shortcut == "branch"
        self.changes = inputs != outputs
        if self.changes:
            self.nin_shortcut = _convolution(outputs if self.from_branch else inputs, outputs, style, size=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if self.changes:
            # MaskGIT's port projects the branch and drops x where the channels change; its weights need that.
            x = self.nin_shortcut(h if self.from_branch else x)
        return x + h


class _Middle(nn.Module):
    def __init__(self, channels: int, style: BlockStyle) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(channels, channels, style)
        self.attn_1 = _attention(channels, style) if style.attention else nn.Identity()
        self.block_2 = _ResidualBlock(channels, channels, style)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Attention(nn.Module):
    """Four heads, keys and values in one convolution: MaskGIT's network has none, so this is ours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(4, channels)
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        q, k, v = rows.unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed.transpose(-1, -2).reshape(x.shape))


class _TamingAttention(nn.Module):
    """One head over all channels, a convolution each for queries, keys and values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        # Of shape b 1 n c: the dimension of one head lets every kernel of the GPU take it.
        q, k, v = (part(normed).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed[:, 0].transpose(1, 2).reshape(x.shape))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # at the right and the bottom only: theirs is off centre


class _Upsample(nn.Module):
    """Every value at four places, height and width twice as large, and a convolution.

    The compiler makes an index of `interpolate` whose gradient is a scattered sum: slow on GPUs, and zero on
    CPUs in bfloat16 (torch 2.13). Of an expanded view it makes a plain sum. Eagerly the view would be copied
    out of the memory format, so there `interpolate` stays.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        b, c, h, w = x.shape
        return self.conv(x[:, :, :, None, :, None].expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w))


def _attention(channels: int, style: BlockStyle) -> nn.Module:
    return _TamingAttention(channels) if style.family == "taming" else _Attention(channels)


def _convolution(inputs: int, outputs: int, style: BlockStyle, *, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=style.family == "taming")


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)

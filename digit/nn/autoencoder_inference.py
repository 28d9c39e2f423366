"""The convolutions of a VQGAN in the form for inference: channels last, half precision, fewer passes.

The same functions up to rounding, made from the modules' weights:
- A residual sum is formed by the pass that takes the next norm's statistics.
- Where a block projects its own branch (MaskGIT's shortcut), x' = P h + h is one convolution with (P + 1) W.
- A 3 x 3 convolution of a picture that was enlarged to twice its side reads only 2 x 2 different pixels for
  each of its four phases: one 2 x 2 convolution of the small picture makes all four, with sums of taps as
  weights, at 4/9 of the operations.
- The last convolution, to three colours, is a product by 27 shares of each pixel and their sum.
"""

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from digit.nn import autoencoder
from digit.nn.nearest import has_kernels


@dataclass(frozen=True)
class _Norm:
    """GroupNorm and SiLU."""

    weight: Tensor  # float32, as bias
    bias: Tensor
    groups: int
    eps: float

    def __call__(self, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The activation of x + add, and x + add itself."""
        if _fused(x, x.shape[1]):
            from digit.fast.kernels.group_norm import apply, statistics  # Triton exists on GPU machines only

            whole, affine = statistics(x, self.weight, self.bias, self.groups, self.eps, add=add)
            return apply(whole, affine), whole
        whole = x if add is None else x + add
        return self.plain(whole), whole

    def plain(self, x: Tensor) -> Tensor:
        """The activation by torch."""
        return F.silu(F.group_norm(x.float(), self.groups, self.weight, self.bias, self.eps)).to(x.dtype)


@dataclass(frozen=True)
class _Convolution:
    weight: Tensor
    bias: Tensor | None
    stride: int = 1
    padding: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


@dataclass(frozen=True)
class _Block:
    norm1: _Norm
    conv1: _Convolution
    norm2: _Norm
    conv2: _Convolution
    shortcut: _Convolution | None  # of the input
    residual: bool  # False where the shortcut is of the branch and lies in conv2

    def __call__(self, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Two summands of the block's output for x + add; the second may be missing."""
        normed, x = self.norm1(x, add)
        return self.after(normed, x)

    def after(self, normed: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same where the first norm is done already."""
        normed, _ = self.norm2(self.conv1(normed))
        h = self.conv2(normed)
        if not self.residual:
            return h, None
        return h, x if self.shortcut is None else self.shortcut(x)


@dataclass(frozen=True)
class _Doubling:
    """Nearest enlargement to twice the side and a convolution; `folded` as one of the small picture."""

    conv: _Convolution
    bias: Tensor  # of each channel, float32
    folded: bool

    def __call__(self, x: Tensor, block: _Block) -> tuple[Tensor, Tensor | None]:
        """What the next block makes of the doubled picture."""
        if not self.folded:
            return block(self.conv(F.interpolate(x, scale_factor=2, mode="nearest")))
        phases = self.conv(x)
        norm = block.norm1
        if _fused(x, len(self.bias)):
            from digit.fast.kernels.group_norm import apply, double_statistics  # see above

            whole, affine = double_statistics(
                phases, self.bias, norm.weight, norm.bias, norm.groups, norm.eps
            )
            return block.after(apply(whole, affine), whole)
        b, _, h, w = x.shape
        corners = phases.unflatten(1, (2, 2, -1))
        rows = [
            torch.stack([corners[:, i, j, :, i : i + h, j : j + w] for j in range(2)], dim=-1)
            for i in range(2)
        ]
        whole = torch.stack(rows, dim=-3).reshape(b, -1, 2 * h, 2 * w) + self.bias.to(x.dtype)[:, None, None]
        return block(whole)


class InferenceDecoder:
    """Latents to pixels, as `Decoder` and its `conv_out` do.

    Args:
        decoder: whose weights are copied.
        dtype: of convolutions and activations.
        black: what the network calls black.
        white: and white.
        fold: compute the doublings on the small side.
        tail: pictures at once in the last two levels, whose tensors are the largest; all if left out.
    """

    def __init__(
        self,
        decoder: autoencoder.Decoder,
        *,
        dtype: torch.dtype = torch.bfloat16,
        black: float = 0.0,
        white: float = 1.0,
        fold: bool = True,
        tail: int | None = None,
    ) -> None:
        self.dtype, self.black, self.white, self.tail = dtype, black, white, tail
        self.enter = _convolution(decoder.conv_in, dtype)
        self.middle = _middle(decoder.mid, dtype)
        levels: list[Any] = list(reversed(decoder.up))  # from the smallest side
        self.levels = [_Level(level, dtype, fold=fold) for level in levels]
        self.norm = _norm(decoder.norm_out)
        weight = decoder.conv_out.get_parameter("weight").detach().float()
        self.colours = _Convolution(weight.to(dtype, memory_format=torch.channels_last), None)
        self.colour_bias = decoder.conv_out.get_parameter("bias").detach().float()
        # weight[colour, c, i, j] at [c, 3 (3 i + j) + colour], padded to what a GPU multiplies by.
        shares = weight.permute(1, 2, 3, 0).reshape(weight.shape[1], 27)
        self.shares = F.pad(shares, (0, 5)).to(dtype).contiguous()

    @torch.no_grad()
    def __call__(self, latents: Float[Tensor, "b z gh gw"], *, kind: torch.dtype = torch.uint8) -> Tensor:
        """Pixels (b, 3, h, w): uint8, or float32 in [0, 1]."""
        side = 2 ** (len(self.levels) - 1)
        out = torch.empty(
            len(latents),
            3,
            latents.shape[2] * side,
            latents.shape[3] * side,
            dtype=kind,
            device=latents.device,
        )
        with torch.autocast(latents.device.type, enabled=False), _searching():
            x, add = self.enter(latents.to(self.dtype, memory_format=torch.channels_last)), None
            for block in self.middle:
                x, add = block(x, add)
            last = max(len(self.levels) - 2, 0)
            doubling = None
            for level in self.levels[:last]:
                x, add, doubling = level(x, add, doubling)
            pieces = self.tail or len(x)
            adds = [None] * -(-len(x) // pieces) if add is None else add.split(pieces)
            for part, its, target in zip(x.split(pieces), adds, out.split(pieces), strict=True):
                self._finish(part, its, doubling, last, target)
        return out

    def _finish(
        self, x: Tensor, add: Tensor | None, doubling: "_Doubling | None", first: int, out: Tensor
    ) -> None:
        """The largest levels and the colours, into `out`."""
        for level in self.levels[first:]:
            x, add, doubling = level(x, add, doubling)
        if _fused(x, x.shape[1]):
            from digit.fast.kernels.group_norm import statistics, to_pixels  # see above

            norm = self.norm
            whole, affine = statistics(x, norm.weight, norm.bias, norm.groups, norm.eps, add=add)
            to_pixels(whole, affine, self.shares, self.colour_bias, self.black, self.white, out)
            return
        pixels = self.colours(self.norm(x, add)[0]).float() + self.colour_bias[:, None, None]
        pixels = ((pixels - self.black) / (self.white - self.black)).clamp(0, 1)
        out.copy_((pixels * 255).round() if out.dtype == torch.uint8 else pixels)


class _Level:
    """Blocks of one side. The doubling after them is given on: the next level's first norm takes it along."""

    def __init__(self, level: Any, dtype: torch.dtype, *, fold: bool) -> None:
        self.blocks = _blocks(level, dtype)
        self.doubling = (
            _doubling(level.upsample.conv, dtype, fold) if hasattr(level.upsample, "conv") else None
        )

    def __call__(
        self, x: Tensor, add: Tensor | None, doubling: _Doubling | None
    ) -> tuple[Tensor, Tensor | None, _Doubling | None]:
        for index, block in enumerate(self.blocks):
            if index == 0 and doubling is not None:
                x, add = doubling(x if add is None else x + add, block)
            else:
                x, add = block(x, add)
        return x, add, self.doubling


class InferenceEncoder:
    """Pixels to latents, as `Encoder` does; the last convolution in float32 there too."""

    def __init__(
        self,
        encoder: autoencoder.Encoder,
        *,
        dtype: torch.dtype = torch.bfloat16,
        black: float = 0.0,
        white: float = 1.0,
    ) -> None:
        self.dtype, self.black, self.white = dtype, black, white
        self.enter = _convolution(encoder.conv_in, dtype)
        levels: list[Any] = list(encoder.down)
        self.levels = [_blocks(level, dtype) for level in levels]
        self.halvings = [_halving(level.downsample, dtype) for level in levels]
        self.middle = _middle(encoder.mid, dtype)
        self.norm = _norm(encoder.norm_out)
        self.leave = _convolution(encoder.conv_out, torch.float32)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Float[Tensor, "b z gh gw"]:
        """Latents, float32, of pixels (b, 3, h, w): uint8, or float in [0, 1]."""
        if pixels.dtype == torch.uint8:
            pixels = pixels.float() / 255
        pixels = self.black + (self.white - self.black) * pixels
        with torch.autocast(pixels.device.type, enabled=False), _searching():
            x, add = self.enter(pixels.to(self.dtype, memory_format=torch.channels_last)), None
            for blocks, halve in zip(self.levels, self.halvings, strict=True):
                for block in blocks:
                    x, add = block(x, add)
                if halve is not None:
                    x, add = halve(x if add is None else x + add), None
            for block in self.middle:
                x, add = block(x, add)
            normed, _ = self.norm(x, add)
            with _searching(allow_tf32=False):
                return self.leave(normed.float())


class _Attending:
    """An attention layer as it is, between blocks."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module = copy.deepcopy(module).to(dtype).eval()

    def __call__(self, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.module(x if add is None else x + add), None


def _searching(*, allow_tf32: bool = True) -> AbstractContextManager[None]:
    """Inside, cuDNN tries its algorithms for each new shape and keeps the fastest."""
    # torch's own default for `enabled` is False here, which would leave convolutions to much slower code.
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=allow_tf32)


def _fused(x: Tensor, channels: int) -> bool:
    """Whether the kernels take x: channels a power of two, from 16 to what one program can hold."""
    return channels & (channels - 1) == 0 and 16 <= channels <= 1024 and has_kernels(x.device, channels)


def _middle(middle: Any, dtype: torch.dtype) -> list[Any]:
    attending = [] if isinstance(middle.attn_1, nn.Identity) else [_Attending(middle.attn_1, dtype)]
    return [_block(middle.block_1, dtype), *attending, _block(middle.block_2, dtype)]


def _blocks(level: Any, dtype: torch.dtype) -> list[Any]:
    """Blocks of a level, each followed by its attention where there is one."""
    steps: list[Any] = []
    for index, block in enumerate(level.block):
        steps.append(_block(block, dtype))
        if len(level.attn):
            steps.append(_Attending(level.attn[index], dtype))
    return steps


@torch.no_grad()
def _block(block: Any, dtype: torch.dtype) -> _Block:
    conv2 = _convolution(block.conv2, dtype)
    shortcut = None
    branch = block.changes and block.from_branch
    if branch:
        project = block.nin_shortcut.weight[:, :, 0, 0].double()
        project = project + torch.eye(len(project), dtype=torch.float64, device=project.device)
        weight = torch.einsum("oi,ihyx->ohyx", project, block.conv2.weight.double())
        bias = None
        if block.conv2.bias is not None:
            bias = (project @ block.conv2.bias.double() + block.nin_shortcut.bias.double()).to(dtype)
        conv2 = _Convolution(_last(weight, dtype), bias)
    elif block.changes:
        shortcut = _convolution(block.nin_shortcut, dtype)
    return _Block(
        _norm(block.norm1),
        _convolution(block.conv1, dtype),
        _norm(block.norm2),
        conv2,
        shortcut,
        residual=not branch,
    )


@torch.no_grad()
def _doubling(conv: nn.Conv2d, dtype: torch.dtype, fold: bool) -> _Doubling:
    """Phase i reads rows y + i - 1 and y + i of the small side: taps 0, 1 + 2 for i = 0; 0 + 1, 2 for 1."""
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight), device=weight.device) if conv.bias is None else conv.bias.detach().float()
    if not fold:
        return _Doubling(_convolution(conv, dtype), bias, folded=False)

    def pairs(taps: Tensor, axis: int) -> list[Tensor]:
        first, middle, last = taps.unbind(axis)
        return [torch.stack(pair, axis) for pair in ((first, middle + last), (first + middle, last))]

    phases = [phase for rows in pairs(weight, 2) for phase in pairs(rows, 3)]
    return _Doubling(_Convolution(_last(torch.cat(phases), dtype), None), bias, folded=True)


def _halving(downsample: Any, dtype: torch.dtype) -> Any:
    """What halves the side: a mean, or taming's strided convolution; None at the last level."""
    if isinstance(downsample, nn.Identity):
        return None
    if isinstance(downsample, nn.AvgPool2d):
        return lambda x: F.avg_pool2d(x, 2)
    convolution = _Convolution(*_weights(downsample.conv, dtype), stride=2, padding=0)
    return lambda x: convolution(F.pad(x, (0, 1, 0, 1)).contiguous(memory_format=torch.channels_last))


def _convolution(conv: nn.Conv2d, dtype: torch.dtype) -> _Convolution:
    weight, bias = _weights(conv, dtype)
    return _Convolution(weight, bias, padding=conv.kernel_size[0] // 2)


def _weights(conv: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    bias = None if conv.bias is None else conv.bias.detach().to(dtype)
    return _last(conv.weight.detach(), dtype), bias


def _last(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


def _norm(norm: Any) -> _Norm:
    return _Norm(norm.weight.detach().float(), norm.bias.detach().float(), norm.num_groups, norm.eps)

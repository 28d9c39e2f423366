"""pixels -> features by a timm ViT, rewritten as the fewest passes over memory: the form for inference.

The same function up to rounding, made from the module's weights: patches are rows of a matrix (standardising
the pixels is folded into its weights), LayerScale is folded into the projections, and a projection adds onto
the residual stream itself. Its bias, which that product has no room for, is the same for all rows: the next
LayerNorm adds the sum of all such biases so far. The first adds the table of what tokens start from.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from digit.nn.attention import attention
from digit.nn.backbone import timm
from digit.nn.nearest import has_kernels

GELU = Literal["erf", "tanh"]

# Patches hold (255 p - 128) / 64: exact in half precision for 8-bit pixels, and weights keep their magnitude.
_MIDDLE, _STEP = 128.0, 64.0


@dataclass(frozen=True)
class _Norm:
    weight: Tensor  # float32, as bias
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor, shift: Tensor | None, table: Tensor | None = None) -> Tensor:
        """LayerNorm of x + shift in float32, rounded to x's type; before, a table of tokens joins x."""
        if has_kernels(x.device, x.shape[1]):
            from digit.fast.kernels.norm import norm  # Triton exists on GPU machines only

            how = {"eps": self.eps, "table": table, "out": torch.empty_like(x)}
            return norm(x, shift, self.weight, self.bias, **how)
        if table is not None:
            x.view(-1, *table.shape).add_(table)
        wide = x.float() if shift is None else x.float() + shift
        return F.layer_norm(wide, wide.shape[1:], self.weight, self.bias, self.eps).to(x.dtype)


@dataclass(frozen=True)
class _Block:
    norm1: _Norm
    qkv: Tensor  # (d, 3 d), in the order of a product from the right, as all matrices here
    qkv_bias: Tensor
    proj: Tensor
    norm2: _Norm
    shift1: Tensor  # what the stream lacks after the first product, float32
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    shift2: Tensor


class InferenceViT:
    """`InferenceViT(vit, mean, std)(pixels)`: what `vit.forward_features` gives for standardised pixels.

    Args:
        vit: a timm VisionTransformer for which `unsupported` gives None; its weights are copied.
        mean: that the ViT expects its pixels, in [0, 1], to be standardised by; red, green, blue.
        std: likewise.
        dtype: of products and the residual stream; float16 keeps eight times the precision of bfloat16.
        gelu: erf is the ViT's; tanh differs by at most 5e-4 and rides on the product before it.
        attention: a kernel of torch's attention; the fastest there is (digit.nn.attention) if left out.
    """

    def __init__(
        self,
        vit: nn.Module,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        dtype: torch.dtype = torch.float16,
        gelu: GELU = "tanh",
        attention: SDPBackend | None = None,
    ) -> None:
        if (reason := unsupported(vit)) is not None:
            raise ValueError(reason)
        self.dtype, self.gelu, self.attention = dtype, gelu, attention
        source: Any = vit
        self.patch: int = source.patch_embed.patch_size[0]
        self.size: int = source.patch_embed.img_size[0]
        self.prefix: int = source.num_prefix_tokens
        self.heads: int = source.blocks[0].attn.num_heads if len(source.blocks) else 1
        self._embed(source, mean, std)
        self.blocks = []
        shift = torch.zeros_like(self.table[0])
        for block in source.blocks:
            self.blocks.append(_folded(block, shift, dtype))
            shift = self.blocks[-1].shift2
        self.last_shift = shift
        self.norm = _norm(source.norm) if isinstance(source.norm, nn.LayerNorm) else None

    @torch.no_grad()
    def _embed(self, vit: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Patch matrix with the standardisation in it, and the table of what each token starts from."""
        weight = vit.patch_embed.proj.weight.double()  # (d, 3, p, p)
        place = {"dtype": torch.float64, "device": weight.device}
        centre = torch.tensor(mean, **place)[:, None, None]
        spread = torch.tensor(std, **place)[:, None, None]
        matrix = (weight * (_STEP / 255) / spread).flatten(1).T
        self.width = -(-len(matrix) // 64) * 64  # whole steps of the product, and rows aligned in memory
        self.matrix = F.pad(matrix, (0, 0, 0, self.width - len(matrix))).to(self.dtype).contiguous()
        bias = (weight * ((_MIDDLE / 255 - centre) / spread)).sum((1, 2, 3))
        if vit.patch_embed.proj.bias is not None:
            bias = bias + vit.patch_embed.proj.bias.double()
        positions = vit.pos_embed[0].double()
        prefix = [token[0].double() for token in (vit.cls_token, vit.reg_token) if token is not None]
        first = torch.cat(prefix) if prefix else positions[:0]
        if not vit.no_embed_class:
            first = first + positions[: self.prefix]
            positions = positions[self.prefix :]
        self.table = torch.cat([first, positions + bias]).float()  # (t, d)

    @torch.no_grad()
    def __call__(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """Tokens after the final norm, class and registers first; pixels are float in [0, 1] or uint8.

        Pictures of another size are resized by torch's bicubic rule without antialiasing.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            b, (t, d) = len(pixels), self.table.shape
            x = self._start(pixels)
            shift, table = None, self.table
            for block in self.blocks:
                x.addmm_(self._attend(block.norm1(x, shift, table), block, b), block.proj)
                y = block.norm2(x, block.shift1)
                x.addmm_(self._hidden(y, block), block.fc2)
                shift, table = block.shift2, None
            if self.norm is not None:
                return self.norm(x, shift, table).view(b, t, d)
            lacking = self.last_shift if table is None else self.last_shift + table
            return (x.view(b, t, d) + lacking).to(x.dtype)

    def needs(self, pixels: Shaped[Tensor, "b 3 h w"]) -> int:
        """Bytes of memory that a call holds at once, generously: the stream, what a block makes, pixels."""
        return 10 * len(pixels) * self.table.numel() * self.dtype.itemsize + 12 * pixels.numel()

    def _start(self, pixels: Tensor) -> Tensor:
        """The residual stream before the first block, without the table, (b t, d): zeros at the prefix."""
        top = 255.0 if pixels.dtype == torch.uint8 else 1.0
        if pixels.shape[-1] != self.size:
            pixels = F.interpolate(
                pixels.float(), size=(self.size, self.size), mode="bicubic", align_corners=False
            )
        return self._patches(pixels, 255 / top / _STEP, -_MIDDLE / _STEP) @ self.matrix

    def _patches(self, pixels: Tensor, scale: float, shift: float) -> Tensor:
        if has_kernels(pixels.device, self.width):
            from digit.fast.kernels.patches import patches  # Triton exists on GPU machines only

            how = {"width": self.width, "prefix": self.prefix, "scale": scale, "shift": shift}
            return patches(pixels, self.patch, dtype=self.dtype, **how)
        rows = F.unfold(pixels.float() * scale + shift, self.patch, stride=self.patch).transpose(1, 2)
        rows = F.pad(rows, (0, self.width - rows.shape[2], self.prefix, 0))
        return rows.flatten(0, 1).to(self.dtype)

    def _attend(self, y: Tensor, block: _Block, pictures: int) -> Tensor:
        qkv = torch.addmm(block.qkv_bias, y, block.qkv)
        q, k, v = qkv.view(pictures, -1, 3, self.heads, y.shape[1] // self.heads).permute(2, 0, 3, 1, 4)
        return attention(q, k, v, backend=self.attention).view(y.shape)

    def _hidden(self, y: Tensor, block: _Block) -> Tensor:
        if self.gelu == "tanh" and y.is_cuda:
            # The GELU of the product's epilogue in cuBLAS: no pass of its own over the widest tensor.
            return torch._addmm_activation(block.fc1_bias, y, block.fc1, use_gelu=True)
        return F.gelu(
            torch.addmm(block.fc1_bias, y, block.fc1), approximate="none" if self.gelu == "erf" else "tanh"
        )


def unsupported(vit: nn.Module) -> str | None:
    """Why a ViT cannot take the form for inference; None if it can."""
    if not isinstance(vit, timm().models.vision_transformer.VisionTransformer):
        return "it is no plain ViT of timm"
    source: Any = vit
    expected = {"norm_pre": nn.Identity, "patch_drop": nn.Identity}
    for name, kind in expected.items():
        if not isinstance(getattr(source, name), kind):
            return f"its {name} is a {type(getattr(source, name)).__name__}"
    if source.pos_embed is None or source.dynamic_img_size:
        return "its positions are not a table of one size"
    if not isinstance(source.patch_embed.norm, nn.Identity):
        return "its patches are normed"
    if not isinstance(source.norm, nn.LayerNorm | nn.Identity):
        return f"its norm is a {type(source.norm).__name__}"
    for block in source.blocks:
        if (reason := _unsupported_block(block)) is not None:
            return reason
    return None


def _unsupported_block(block: Any) -> str | None:
    layers, models = timm().layers, timm().models.vision_transformer
    if type(block) is not models.Block:
        return f"its blocks are {type(block).__name__}"
    attention, mlp = block.attn, block.mlp
    if type(attention) is not models.Attention or type(mlp) is not layers.Mlp:
        return f"its blocks hold {type(attention).__name__} and {type(mlp).__name__}"
    if not isinstance(mlp.act, nn.GELU) or getattr(mlp.act, "approximate", "none") != "none":
        return f"its activation is a {type(mlp.act).__name__}"
    within = (attention.q_norm, attention.k_norm, attention.norm, mlp.norm)
    if any(not isinstance(part, nn.Identity) for part in within) or attention.gate is not None:
        return "its blocks have further norms or gates"
    if not all(isinstance(part, nn.LayerNorm) for part in (block.norm1, block.norm2)):
        return f"its norms are {type(block.norm1).__name__}"
    return None


@torch.no_grad()
def _folded(block: Any, shift: Tensor, dtype: torch.dtype) -> _Block:
    """One block's matrices; `shift` is what the stream lacks before it."""

    def scaled(linear: nn.Linear, scale: nn.Module) -> tuple[Tensor, Tensor]:
        gamma = getattr(scale, "gamma", None)
        factor = (
            torch.ones(len(linear.weight), device=linear.weight.device) if gamma is None else gamma.float()
        )
        bias = _bias(linear) * factor
        return (linear.weight.float() * factor[:, None]).T.to(dtype), bias

    proj, proj_bias = scaled(block.attn.proj, block.ls1)
    fc2, fc2_bias = scaled(block.mlp.fc2, block.ls2)
    return _Block(
        _norm(block.norm1),
        block.attn.qkv.weight.T.to(dtype),
        _bias(block.attn.qkv).to(dtype),
        proj,
        _norm(block.norm2),
        shift + proj_bias,
        block.mlp.fc1.weight.T.to(dtype),
        _bias(block.mlp.fc1).to(dtype),
        fc2,
        shift + proj_bias + fc2_bias,
    )


def _bias(linear: nn.Linear) -> Tensor:
    if linear.bias is None:
        return torch.zeros(len(linear.weight), device=linear.weight.device)
    return linear.bias.float()


def _norm(norm: Any) -> _Norm:
    return _Norm(norm.weight.detach().float(), norm.bias.detach().float(), norm.eps)

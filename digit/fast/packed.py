"""A transformer in the form that inference on a GPU reads: one number format, norms and biases in float32.

Each row's hidden states have the same bits whatever rows stand beside it: products, norms and attention keep
one order of sums for any number of rows (see `kernels.linear`, `kernels.norm`, `kernels.attention`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from digit.fast.kernels.linear import FEW, Gelu, counters, linear
from digit.fast.kernels.norm import norm
from digit.nn.transformer import KeyValueCache, Transformer

# cuDNN's attention takes 0.72 of flash attention's time over 513 positions on an H200, and computes each row
# in one order; flash attention cuts the keys of a single row.
CUDNN_FIRST = [
    *(SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION),
    *(SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
]
Norm = tuple[Tensor, Tensor]  # weight and bias of a LayerNorm, float32
Attend = Callable[[int, Tensor], Tensor]  # (layer, queries, keys and values side by side) -> mixed values


@dataclass(frozen=True)
class PackedBlock:
    """One block: matrices in the inference format, each with its bias in float32, and norms in float32."""

    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    attention_norm: Norm
    mlp_norm: Norm


class PackedTransformer:
    """Reads whole sequences, or one position per row; gives what the Transformer gives in eval mode.

    In float32 the two agree to rounding. In bfloat16 the residual stream is bfloat16 too, where autocast
    keeps it in float32, and GELU has its tanh form: both are of the size of bfloat16's own rounding
    (docs/performance.md has the measured agreement).
    """

    def __init__(self, transformer: Transformer, dtype: torch.dtype, *, outputs: int = 0) -> None:
        """Copies the weights as they are now; `outputs` are those of a head that is read too."""
        self.config, self.dtype = transformer.config, dtype
        self.pre = self.config.norm == "pre"
        self.gelu: Gelu = "tanh" if dtype == torch.bfloat16 else "exact"
        self.blocks: list[PackedBlock] = []
        block: Any
        for block in transformer.blocks:
            attention, up, down = block.attention, block.mlp[0], block.mlp[2]
            self.blocks.append(
                PackedBlock(
                    qkv=_packed(attention.qkv, dtype),
                    out=_packed(attention.out, dtype),
                    up=_packed(up, dtype),
                    down=_packed(down, dtype),
                    attention_norm=_norm_of(block.attention_norm),
                    mlp_norm=_norm_of(block.mlp_norm),
                )
            )
        self.norm = _norm_of(transformer.norm) if self.pre else None
        widest = max(outputs, max(self.config.mlp, 3) * self.config.width)
        device = self.blocks[0].qkv[0].device
        self.arrived = counters(widest, device)
        # Whether launches for few rows begin while the kernel before them still runs.
        self.chained = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)

    def __call__(self, x: Float[Tensor, "r d"], attend: Attend) -> Float[Tensor, "r d"]:
        """Hidden states of rows that meet only in `attend`."""
        how: dict[str, Any] = {"parts": True, "arrived": self.arrived}
        for layer, block in enumerate(self.blocks):
            read = self._normed(x, block.attention_norm) if self.pre else x
            x = self._rest(x, attend(layer, self.product(read, *block.qkv, **how)), block, **how)
        return x if self.norm is None else self._normed(x, self.norm)

    def product(
        self, x: Float[Tensor, "r k"], matrix: Float[Tensor, "n k"], bias: Tensor | None = None, **how: Any
    ) -> Float[Tensor, "r n"]:
        """`kernels.linear.linear`."""
        return linear(x, matrix, bias, chained=self.chains(len(x)), **how)

    def chains(self, rows: int) -> bool:
        """Whether kernels for so many rows follow each other in a chain."""
        return self.chained and rows <= FEW

    def read(
        self,
        x: Float[Tensor, "b n d"],
        cache: KeyValueCache | None = None,
        *,
        wanted: Int[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Hidden states of the `wanted` positions, of all n in order if left out.

        The last block computes no others, and with none wanted only fills the cache. The cache must be empty:
        keys and values of all positions are written to it. A causal stack gives all hidden states or none.
        """
        b, n, width = x.shape
        x = x.to(self.dtype, copy=True, memory_format=torch.contiguous_format).view(b * n, width)
        for layer, block in enumerate(self.blocks):
            read = self._normed(x, block.attention_norm) if self.pre else x
            final = layer + 1 == len(self.blocks)
            if wanted is None or not final:
                queries, keys, values = self._split(read, *block.qkv, b)
            else:
                assert not (self.config.causal and wanted.numel()), "a causal stack reads all, or only caches"
                rows = (wanted + n * torch.arange(b, device=x.device)[:, None]).flatten()
                matrix, bias = block.qkv
                keys, values = self._split(read, matrix[width:], bias[width:], b)
                (queries,) = self._split(read[rows], matrix[:width], bias[:width], b)
                x = x[rows]
            if cache is not None:
                cache.extend(layer, keys, values=values)
            if len(x):
                with sdpa_kernel(CUDNN_FIRST, set_priority=True):
                    mixed = F.scaled_dot_product_attention(
                        queries, keys, values, is_causal=self.config.causal
                    )
                x = self._rest(x, mixed.transpose(1, 2).reshape(-1, width), block)
        if cache is not None:
            cache.length += n
        if len(x) and self.norm is not None:
            x = self._normed(x, self.norm)
        return x.view(b, -1 if len(x) else 0, width)

    def _split(self, x: Tensor, matrix: Tensor, bias: Tensor, batch: int) -> tuple[Tensor, ...]:
        """Products by heads, (batch, heads, positions, channels) each."""
        heads, width = self.config.heads, self.config.width
        product = self.product(x, matrix, bias)
        split = product.view(batch, len(x) // batch, len(matrix) // width, heads, width // heads)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _rest(self, x: Tensor, mixed: Tensor, block: PackedBlock, **how: Any) -> Tensor:
        """All of a block after attention."""
        x = self.product(mixed, *block.out, residual=x, **how)
        inner = self._normed(x, block.mlp_norm if self.pre else block.attention_norm)
        hidden = self.product(inner, *block.up, gelu=self.gelu, **how)
        x = self.product(hidden, *block.down, residual=x if self.pre else inner, **how)
        return x if self.pre else self._normed(x, block.mlp_norm)

    def _normed(self, x: Float[Tensor, "r d"], layer: Norm) -> Float[Tensor, "r d"]:
        return norm(x, *layer, chained=self.chains(len(x)))


def _packed(layer: torch.nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return layer.weight.detach().to(dtype, copy=True).contiguous(), _full(layer.bias)


def _full(values: Tensor) -> Tensor:
    return values.detach().to(torch.float32, copy=True)


def _norm_of(layer: torch.nn.Module) -> Norm:
    return _full(layer.get_parameter("weight")), _full(layer.get_parameter("bias"))

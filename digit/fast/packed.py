"""A transformer in the form that inference on a GPU reads: one number format, biases moved together.

The residual stream is the products' own: each adds to it as it ends, and what it leaves out, a bias that is
the same for all rows, the next LayerNorm adds. So between two products nothing is read or written but what
LayerNorm, attention and GELU need.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from digit.fast.kernels.linear import Norm, few_rows
from digit.fast.kernels.norm import norm
from digit.nn.transformer import KeyValueCache, Transformer

# cuDNN's attention takes 0.72 of flash attention's time over 513 positions on an H200.
_CUDNN_FIRST = [
    *(SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION),
    *(SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
]
Attend = Callable[[int, Tensor], Tensor]  # (layer, queries, keys and values side by side) -> mixed values


@dataclass(frozen=True)
class PackedBlock:
    """One block; matrices in the inference format, each bias also in float32, norms in float32."""

    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    attention_norm: Norm
    mlp_norm: Norm
    shifts: tuple[Tensor | None, Tensor | None]  # what the LayerNorms add to the stream before they begin
    biases: tuple[Tensor, Tensor, Tensor, Tensor]  # of qkv, out, up and down, float32


class PackedTransformer:
    """Reads whole sequences, or one position per row; gives what the Transformer gives in eval mode.

    In float32 the two agree to rounding. In bfloat16 the residual stream is bfloat16 too, where autocast
    keeps it in float32, and `fused_gelu` takes GELU's tanh form, which rides on the matrix product: both are
    of the size of bfloat16's own rounding (docs/performance.md has the measured agreement).
    """

    def __init__(self, transformer: Transformer, dtype: torch.dtype, *, fused_gelu: bool = False) -> None:
        """Copies the weights; later changes of the transformer are not seen."""
        self.config, self.dtype, self.fused_gelu = transformer.config, dtype, fused_gelu
        self.pre = self.config.norm == "pre"
        self.blocks: list[PackedBlock] = []
        pending: Tensor | None = None  # biases that the stream lacks so far
        block: Any
        for block in transformer.blocks:
            attention, up, down = block.attention, block.mlp[0], block.mlp[2]
            biases = (_full(attention.qkv.bias), _full(attention.out.bias), _full(up.bias), _full(down.bias))
            first = pending if self.pre else None
            second = biases[1] if not self.pre or pending is None else pending + biases[1]
            pending = second + biases[3] if self.pre else biases[3]
            self.blocks.append(
                PackedBlock(
                    qkv=_packed(attention.qkv.weight, dtype),
                    qkv_bias=_packed(attention.qkv.bias, dtype),
                    out=_packed(attention.out.weight, dtype),
                    up=_packed(up.weight, dtype),
                    up_bias=_packed(up.bias, dtype),
                    down=_packed(down.weight, dtype),
                    attention_norm=_norm_of(block.attention_norm),
                    mlp_norm=_norm_of(block.mlp_norm),
                    shifts=(first, second if self.pre else biases[1]),
                    biases=biases,
                )
            )
        self.pending = pending
        self.norm = _norm_of(transformer.norm) if self.pre else None

    def __call__(self, x: Float[Tensor, "r d"], attend: Attend) -> Float[Tensor, "r d"]:
        """Hidden states of rows that meet only in `attend`. Overwrites x."""
        for layer, block in enumerate(self.blocks):
            mixed = attend(layer, torch.addmm(block.qkv_bias, self._normed(x, block), block.qkv.T))
            x = self._rest(x, mixed, block)
        return self._finish(x)

    def few(
        self, x: Float[Tensor, "r d"], attend: Attend, *, chained: bool
    ) -> tuple[Float[Tensor, "r d"], Norm | None]:
        """The same for a handful of rows, float32 throughout; the last LayerNorm is left to the reader."""
        before: Norm | None = None  # the LayerNorm that a post-norm stream still lacks
        first_seen, inner_seen = x.new_empty(2, len(x), 2)  # mean and deviation, for what reads rows again
        for layer, block in enumerate(self.blocks):
            first = block.attention_norm if self.pre else before
            kept = None if self.pre else before
            inner = block.mlp_norm if self.pre else block.attention_norm
            seen = {"norm": first, "statistics": first_seen, "chained": chained}
            mixed = attend(layer, few_rows(x, block.qkv, block.biases[0], **seen))
            again = {"residual_norm": kept, "residual_statistics": first_seen, "chained": chained}
            x = few_rows(mixed, block.out, block.biases[1], residual=x, **again)
            seen = {"norm": inner, "statistics": inner_seen, "chained": chained}
            hidden = few_rows(x, block.up, block.biases[2], gelu=True, **seen)
            again |= {"residual_norm": None if self.pre else inner, "residual_statistics": inner_seen}
            x = few_rows(hidden, block.down, block.biases[3], residual=x, **again)
            before = None if self.pre else block.mlp_norm
        return x, self.norm if self.pre else before

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
            read = self._normed(x, block)
            final = layer + 1 == len(self.blocks)
            if wanted is None or not final:
                queries, keys, values = self._split(read, block.qkv, block.qkv_bias, b)
            else:
                assert not (self.config.causal and wanted.numel()), "a causal stack reads all, or only caches"
                rows = (wanted + n * torch.arange(b, device=x.device)[:, None]).flatten()
                keys, values = self._split(read, block.qkv[width:], block.qkv_bias[width:], b)
                (queries,) = self._split(read[rows], block.qkv[:width], block.qkv_bias[:width], b)
                x = x[rows]
            if cache is not None:
                cache.extend(layer, keys, values=values)
            if len(x):
                with sdpa_kernel(_CUDNN_FIRST, set_priority=True):
                    mixed = F.scaled_dot_product_attention(
                        queries, keys, values, is_causal=self.config.causal
                    )
                x = self._rest(x, mixed.transpose(1, 2).reshape(-1, width), block)
        if cache is not None:
            cache.length += n
        return self._finish(x).view(b, -1, width) if len(x) else x.view(b, 0, width)

    def _split(self, x: Tensor, matrix: Tensor, bias: Tensor, batch: int) -> tuple[Tensor, ...]:
        """Products by heads, (batch, heads, positions, channels) each."""
        heads, width = self.config.heads, self.config.width
        product = torch.addmm(bias, x, matrix.T)
        split = product.view(batch, len(x) // batch, len(matrix) // width, heads, width // heads)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _normed(self, x: Tensor, block: PackedBlock) -> Tensor:
        """What the block's attention reads."""
        if not self.pre:
            return x
        weight, bias = block.attention_norm
        return norm(x, block.shifts[0], weight, bias, eps=1e-5, out=torch.empty_like(x))

    def _rest(self, x: Tensor, mixed: Tensor, block: PackedBlock) -> Tensor:
        """All of a block after attention; x is overwritten."""
        x = x.addmm_(mixed, block.out.T)
        weight, bias = block.mlp_norm if self.pre else block.attention_norm
        normed = norm(x, block.shifts[1], weight, bias, eps=1e-5, out=torch.empty_like(x))
        if self.fused_gelu:
            hidden = torch._addmm_activation(block.up_bias, normed, block.up.T, use_gelu=True)
        else:
            hidden = F.gelu(torch.addmm(block.up_bias, normed, block.up.T))
        if self.pre:
            return x.addmm_(hidden, block.down.T)
        x = normed.addmm_(hidden, block.down.T)
        return norm(x, block.biases[3], *block.mlp_norm, eps=1e-5, out=torch.empty_like(x))

    def _finish(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return x
        return norm(x, self.pending, *self.norm, eps=1e-5, out=torch.empty_like(x))


def _packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(dtype, copy=True).contiguous()


def _full(bias: Tensor) -> Tensor:
    return bias.detach().to(torch.float32, copy=True)


def _norm_of(layer: torch.nn.Module) -> Norm:
    return _full(layer.get_parameter("weight")), _full(layer.get_parameter("bias"))

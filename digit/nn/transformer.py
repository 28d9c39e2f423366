"""embedded codes -> hidden states: the transformer of the prior and of the renderers (DiGIT, section 3.3)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from digit.calls import check_fields
from digit.errors import DigitError


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a stack of blocks. Raises DigitError where the numbers do not fit together."""

    width: int  # channels of the residual stream
    layers: int  # blocks
    heads: int  # attention heads, each of width / heads channels
    mlp: int = 4  # hidden channels of the feed-forward part, in widths
    norm: Literal["post", "pre"] = "post"  # LayerNorms after each sum, or before each branch
    dropout: float = 0.1  # share of zeroed values: embeddings, attention outputs, feed-forward outputs
    causal: bool = True  # each position reads itself and those before it, or all of them

    def __post_init__(self) -> None:
        """Fail at construction, not in a reshape."""
        check_fields(self)
        if min(self.width, self.layers, self.heads, self.mlp) < 1:
            raise DigitError(f"width, layers, heads and mlp must be at least 1, this transformer has {self}")
        if self.width % self.heads:
            raise DigitError(
                f"{self.heads} heads do not divide the width {self.width}: choose a divisor of it"
            )
        if not 0 <= self.dropout < 1:
            raise DigitError(f"dropout is {self.dropout}: give a share from 0 to below 1")


class KeyValueCache:
    """Keys and values of the positions read so far, one pair of tensors per layer, written in place.

    One tensor a layer, never one for all: a compiled write to it would copy the whole at each step.
    """

    def __init__(
        self, config: TransformerConfig, batch: int, *, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Room for `length` positions of `batch` rows, nothing in it yet."""
        shape = (batch, config.heads, length, config.width // config.heads)
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.length = 0  # positions filled, the same in every layer

    def extend(
        self, layer: int, keys: Float[Tensor, "b h n c"], *, values: Float[Tensor, "b h n c"]
    ) -> tuple[Float[Tensor, "b h t c"], Float[Tensor, "b h t c"]]:
        """Write n new positions of one layer; all positions filled in that layer, as views.

        `length` stays: the transformer moves it once every layer has written.
        """
        start, end = self.length, self.length + keys.shape[2]
        assert end <= self.keys[layer].shape[2], "the cache is shorter than the sequence"
        self.keys[layer][:, :, start:end] = keys
        self.values[layer][:, :, start:end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class Attention(nn.Module):
    """Multi-head attention with one matrix for queries, keys and values, in this order."""

    def __init__(self, config: TransformerConfig) -> None:
        """Weights drawn as the reference draws them."""
        super().__init__()
        self.heads, self.causal = config.heads, config.causal
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        for matrix in self.qkv.weight.data.chunk(3):  # as three matrices (fairseq, multihead_attention.py)
            nn.init.xavier_uniform_(matrix, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Float[Tensor, "b n d"], cache: KeyValueCache | None = None, *, layer: int = 0
    ) -> Float[Tensor, "b n d"]:
        """Attend from the n positions of x to them and to those in the cache."""
        b, n, d = x.shape
        split = self.qkv(x).view(b, n, 3, self.heads, d // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)  # b heads n channels each
        mask, causal = None, self.causal and n > 1
        if cache is not None:
            keys, values = cache.extend(layer, keys, values=values)
            if causal and cache.length > 0:  # is_causal would align the triangle with the oldest position
                causal = False
                mask = torch.ones(n, keys.shape[2], dtype=torch.bool, device=x.device).tril(cache.length)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """Attention and a feed-forward part with exact GELU, each with its residual sum and LayerNorm."""

    def __init__(self, config: TransformerConfig) -> None:
        """The feed-forward weights keep torch's own start, as in the reference."""
        super().__init__()
        self.pre = config.norm == "pre"
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp * config.width),
            nn.GELU(),
            nn.Linear(config.mlp * config.width, config.width),
        )
        self.mlp_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.attention_dropout = nn.Dropout(config.dropout)
        self.mlp_dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "b n d"], cache: KeyValueCache | None = None, *, layer: int = 0
    ) -> Float[Tensor, "b n d"]:
        """One block; `layer` says which part of the cache is its own."""
        if self.pre:
            x = x + self.attention_dropout(self.attention(self.attention_norm(x), cache, layer=layer))
            return x + self.mlp_dropout(self.mlp(self.mlp_norm(x)))
        # Autocast makes every LayerNorm's output float32: the stream keeps the dtype in which it came.
        x = self.attention_norm(x + self.attention_dropout(self.attention(x, cache, layer=layer))).to(x.dtype)
        return self.mlp_norm(x + self.mlp_dropout(self.mlp(x))).to(x.dtype)


class Transformer(nn.Module):
    """Blocks over embedded positions; pre-norm stacks end with a LayerNorm, post-norm stacks already do."""

    def __init__(self, config: TransformerConfig) -> None:
        """Config-many blocks, freshly drawn."""
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-5) if config.norm == "pre" else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b n d"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "b n d"]:
        """Hidden states of the n positions of x, which follow those in the cache and join them there."""
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer=layer)
        if cache is not None:
            cache.length += x.shape[1]
        return self.norm(x)

    def states(self, x: Float[Tensor, "b n d"]) -> list[Float[Tensor, "b n d"]]:
        """The input of the first block and the output of each block (layers + 1), before a final norm."""
        states = [self.dropout(x)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def cache(
        self, batch: int, length: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> KeyValueCache:
        """An empty cache for `length` positions; device and dtype default to the weights'."""
        assert self.config.causal, "positions that read later ones cannot be cached"
        weight = next(self.parameters())
        device, dtype = device or weight.device, dtype or weight.dtype
        return KeyValueCache(self.config, batch, length=length, device=device, dtype=dtype)


def stream(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """x in the dtype of the residual stream: autocast's in training on a GPU, else that of x.

    In float32, the stream is twice the bytes of all that stands between matrix products.
    """
    if x.is_cuda and torch.is_grad_enabled() and torch.is_autocast_enabled("cuda"):
        return x.to(torch.get_autocast_dtype("cuda"))
    return x


def embedding(rows: int, width: int) -> nn.Embedding:
    """A learned table drawn from N(0, 1 / width), as all of the reference's tables are."""
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table


def projection(width: int, rows: int) -> nn.Linear:
    """Hidden states to logits, without bias, drawn from N(0, 1 / width)."""
    linear = nn.Linear(width, rows, bias=False)
    nn.init.normal_(linear.weight, std=width**-0.5)
    return linear

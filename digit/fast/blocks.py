"""Post-norm blocks in training: torch's matrix products and attention, and between them the kernels."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from digit.fast.kernels.add_norm import AddNorm
from digit.fast.kernels.gelu import BiasGelu
from digit.fast.kernels.heads import Heads
from digit.nn.transformer import KeyValueCache, Transformer

_eager: Any = torch.compiler.disable  # as a decorator its type is not that of a function


def forward(
    transformer: Transformer, x: Float[Tensor, "b n d"], cache: KeyValueCache | None = None
) -> Float[Tensor, "b n d"]:
    """`Transformer.forward`, its blocks by kernels where they can: in training, in bf16 on a GPU."""
    if cache is None and transformer.training and fits(x):
        return blocks(transformer, transformer.dropout(x))
    return Transformer.forward(transformer, x, cache)


def fits(x: Float[Tensor, "b n d"]) -> bool:
    """Whether the kernels can: with gradients, in bf16 on a GPU."""
    return x.is_cuda and torch.is_grad_enabled() and x.dtype == torch.bfloat16


@_eager
def blocks(transformer: Transformer, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """What the blocks of a post-norm transformer make of x in training, in the dtype of x.

    A bias of a branch enters with its dropout, that of the hidden layer with its GELU: so their gradients are
    summed on the way. Dropout masks come from torch's generator by one seed each.
    """
    b, n, d = x.shape
    config = transformer.config
    seeds = torch.randint(-(1 << 31), 1 << 31, (2 * config.layers,), device=x.device).to(torch.int32)
    entering = staying = x.reshape(b * n, d)
    stack: Any = transformer.blocks
    for layer, block in enumerate(stack):
        attention, (up, _, down) = block.attention, block.mlp
        queries, keys, values = Heads.apply(
            entering, attention.qkv.weight, attention.qkv.bias, b, config.heads
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=config.causal)
        branch = _product(mixed.transpose(1, 2).reshape(b * n, d), attention.out.weight)
        for_norm = (seeds, 2 * layer, config.dropout, block.attention_norm.eps)
        norm = block.attention_norm
        entering, staying = AddNorm.apply(
            branch, attention.out.bias, staying, norm.weight, norm.bias, *for_norm
        )
        branch = _product(BiasGelu.apply(_product(entering, up.weight), up.bias), down.weight)
        for_norm = (seeds, 2 * layer + 1, config.dropout, block.mlp_norm.eps)
        norm = block.mlp_norm
        entering, staying = AddNorm.apply(branch, down.bias, staying, norm.weight, norm.bias, *for_norm)
    return entering.view(b, n, d)


def _product(x: Float[Tensor, "r d"], weight: Float[Tensor, "e d"]) -> Float[Tensor, "r e"]:
    return F.linear(x, weight.to(x.dtype))

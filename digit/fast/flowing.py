"""The flow renderer's passes on a GPU: packed weights, kernels between products, one graph of all passes."""

import weakref
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from digit.fast.graphs import Captured
from digit.fast.kernels.linear import linear
from digit.fast.kernels.modulated import add_modulate, norm_heads
from digit.fast.packed import CUDNN_FIRST
from digit.fast.weights import state_of
from digit.nn import modulated
from digit.renderer_flow import FlowRenderer, over_patches, patches_of, pictures_of
from digit.renderer_flow import flow as plain_flow

Layer = tuple[Tensor, Tensor]  # matrix and bias in the inference format


class PackedFlow:
    """A flow renderer's pass: matrices in one number format, tables, norms and sums in float32.

    The library multiplies, which gives a row the same bits where the number of rows is the same:
    `in_equal_parts` sees to it. The product before GELU is a kernel's, which does both in one pass.
    """

    def __init__(self, renderer: FlowRenderer, dtype: torch.dtype) -> None:
        """Copies the matrices as they are now; the tables stay where they are."""
        self.config, self.dtype = renderer.config, dtype
        self.graphs: dict[tuple, Captured] = {}
        self._times, self._strengths = renderer.times, renderer.strengths
        tables = renderer.code_embedding, renderer.label_embedding, renderer.position_embedding
        self._codes, self._labels, self._positions = (each.weight.detach() for each in tables)
        self._patches, self._projection = self._packed(renderer.patch_embedding, renderer.projection)
        blocks: Any = renderer.blocks
        # Shifts, scales and gates depend on the condition alone: all of them are one product.
        of_all = (*(block.modulation for block in blocks), renderer.modulation)
        weights, biases = zip(*self._packed(*of_all), strict=True)
        self._modulation = torch.cat(weights), torch.cat(biases)
        self._blocks = [
            (
                self._packed(block.qkv, block.out, block.mlp[2]),
                (block.mlp[0].weight.detach().to(dtype, copy=True), block.mlp[0].bias.detach().float()),
                tuple(each.weight.detach().float() for each in (block.query_norm, block.key_norm)),
            )
            for block in blocks
        ]

    def _packed(self, *layers: nn.Linear) -> list[Layer]:
        return [
            (each.weight.detach().to(self.dtype, copy=True), each.bias.detach().to(self.dtype, copy=True))
            for each in layers
        ]

    def __call__(
        self,
        noisy: Float[Tensor, "b 3 h w"],
        times: Float[Tensor, " b"],
        codes: Int[Tensor, "b n"],
        labels: Int[Tensor, " b"],
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """What the renderer's own pass gives, to rounding."""
        side, width, heads, b = self.config.side, self.config.width, self.config.heads, len(noisy)
        condition = self._times(times) + self._labels[labels]
        if self._strengths is not None:
            condition = condition + self._strengths(self.config.taught(guidance, times))
        modulation = F.linear(F.silu(condition).to(self.dtype), *self._modulation).split(width, 1)
        embedded = F.linear(patches_of(noisy, side).to(self.dtype), *self._patches)
        x = (embedded + over_patches(self._codes[codes], side) + self._positions).view(-1, width)
        branch = gate = None
        for layer, ((qkv, out, down), up, gains) in enumerate(self._blocks):
            shift, scale, attention_gate, *of_mlp, mlp_gate = modulation[6 * layer : 6 * layer + 6]
            read = add_modulate(x, shift, scale, gate=gate, branch=branch, dtype=self.dtype)
            split = norm_heads(F.linear(read, *qkv), *gains, heads=heads, eps=modulated.EPS)
            split = split.view(b, -1, 3, heads, width // heads)
            queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
            with sdpa_kernel(CUDNN_FIRST, set_priority=True):
                mixed = F.scaled_dot_product_attention(queries, keys, values)
            branch = F.linear(mixed.transpose(1, 2).reshape(-1, width), *out)
            read = add_modulate(x, *of_mlp, gate=attention_gate, branch=branch, dtype=self.dtype)
            branch, gate = F.linear(linear(read, *up, gelu="tanh"), *down), mlp_gate
        read = add_modulate(x, *modulation[-2:], gate=gate, branch=branch, dtype=self.dtype)
        patches = F.linear(read, *self._projection).float()
        return pictures_of(patches.view(b, side**2, -1), side)


def flow(
    renderer: FlowRenderer,
    x: Float[Tensor, "b 3 h w"],
    codes: Int[Tensor, "b n"],
    labels: Int[Tensor, " b"],
    guidance: Float[Tensor, " b"],
    *,
    steps: int,
    guided: bool,
    **seen: Any,
) -> Float[Tensor, "b 3 h w"]:
    """What `renderer_flow.flow` draws; as one graph where nobody looks on."""
    half = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if half else renderer.projection.weight.dtype
    packed, given = packed_for(renderer, dtype), (x, codes, labels, guidance)
    with torch.autocast(x.device.type, enabled=False):
        run = partial(plain_flow.plain, packed, steps=steps, guided=guided)
        if not captures(x) or seen.get("watch") is not None:
            return run(*given, **seen)
        key = (len(x), steps, guided)
        if key not in packed.graphs:
            packed.graphs[key] = Captured(run, *given)
        drawn = packed.graphs[key](*given).clone()
    if progress := seen.get("progress"):
        progress(len(x) * steps)
    return drawn


def captures(x: Tensor) -> bool:
    """Whether passes are captured: on a GPU."""
    return x.is_cuda


_packed: "weakref.WeakKeyDictionary[FlowRenderer, tuple[tuple, PackedFlow]]" = weakref.WeakKeyDictionary()


def packed_for(renderer: FlowRenderer, dtype: torch.dtype) -> PackedFlow:
    """The renderer's last one, if no weight has changed."""
    state = (dtype, *state_of(renderer))
    found = _packed.get(renderer)
    if found is None or found[0] != state:
        found = _packed[renderer] = (state, PackedFlow(renderer, dtype))
    return found[1]

"""Inner maps of timm's networks of any family: ConvNeXt, Swin, ResNet, EVA; what follows is cut off."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from digit.errors import DigitError, first_line

# What timm raises where a network's maps cannot be had as they are asked for.
_FAILS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Maps:
    """Which of a network's maps is read: a stage's where there are stages, else a block's."""

    index: int
    norm: bool  # apply the network's final norm, where timm has one for this map
    width: int  # channels
    grid: int  # vectors along a side

    def read(self, network: Any, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n d"]:
        """The map's vectors in raster order."""
        return _map(network, pixels, self.index, norm=self.norm).flatten(2).transpose(1, 2)


@torch.no_grad()
def cut(network: nn.Module, index: int, *, norm: bool, size: int, most: int, name: str) -> Maps:
    """The map numbered `index`, negative from the end, of pictures of `size` pixels; later stages go.

    Raises:
        DigitError: timm gives no maps of this network, none of this number, or none of this size; a map that
            is no square, or has more than `most` vectors along a side.
    """
    whole: Any = network.eval()
    if not hasattr(whole, "forward_intermediates") or not getattr(whole, "feature_info", None):
        raise DigitError(f"timm reads no inner maps of {name}: choose another network")
    depth = len(whole.feature_info)
    if not -depth <= index < depth:
        raise DigitError(f"{name} has {depth} maps, none numbered {index}: choose one from -{depth}")
    index %= depth
    reduction = whole.feature_info[index]["reduction"]
    if size > most * reduction:
        raise DigitError(
            f"{name} at {size} pixels gives maps of {size // reduction:,} x {size // reduction:,} vectors: "
            f"give an --encoder-size of at most {most * reduction}"
        )
    try:
        whole.prune_intermediate_layers([index], prune_norm=not norm, prune_head=True)
        # Without values, so that it costs nothing: a size may come out of a file.
        held = itertools.chain(network.named_parameters(), network.named_buffers())
        shapes = {f"network.{each}": tensor.to("meta") for each, tensor in held}
        pixels = torch.empty(1, 3, size, size, device="meta")
        _, width, height, across = functional_call(_Read(whole, index, norm), shapes, (pixels,)).shape
    except _FAILS as error:
        hint = ": leave out the norm with --no-norm" if norm and "norm" in str(error) else ""
        raise DigitError(f"{name} cannot be read at {size} pixels ({first_line(error)}){hint}") from error
    if height != across:
        raise DigitError(
            f"{name} gives maps of {height} x {across} vectors, which are no square: choose another"
        )
    return Maps(index, norm, width, height)


class _Read(nn.Module):
    """A map as a module's output."""

    def __init__(self, network: nn.Module, index: int, norm: bool) -> None:
        super().__init__()
        self.network, self.index, self.norm = network, index, norm

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d g g"]:
        return _map(self.network, pixels, self.index, norm=self.norm)


def _map(network: Any, pixels: Tensor, index: int, *, norm: bool) -> Float[Tensor, "b d g g"]:
    how: Any = {"indices": [index], "norm": norm, "stop_early": True, "intermediates_only": True}
    return network.forward_intermediates(pixels, output_fmt="NCHW", **how)[0]

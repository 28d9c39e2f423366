"""Dropout whose mask costs a compiled step no memory traffic and few instructions."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Dropout(nn.Module):
    """torch's dropout; compiled on a GPU, its mask is a hash of the place and of two numbers drawn a call.

    torch's generator (Philox) spends some hundred integer operations on a value, more time than reading and
    writing it takes. A hash of a dozen, with both its keys from torch's generator, is made anew in the
    backward pass rather than stored. For that each module of a compiled whole needs a `first` of its own:
    what they had in common the compiler would keep, and the masks with it.
    """

    def __init__(self, share: float, first: int = 0) -> None:
        super().__init__()
        self.share = share  # of the values that become 0
        self.first = first  # number of the first place

    def forward(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """x, in training with some values 0 and the others larger to make up for it."""
        if not self.training or self.share == 0:
            return x
        if not hashed(x):
            return F.dropout(x, self.share)
        keys = (torch.rand(2, device=x.device) * (1 << 24)).to(torch.int32)
        return torch.where(kept(x.shape, keys, self.share, first=self.first), x * (1 / (1 - self.share)), 0.0)


def hashed(x: Tensor) -> bool:
    """Whether the mask is a hash: where the compiler makes one kernel of it and what stands around."""
    return x.is_cuda and torch.compiler.is_compiling()


def kept(shape: torch.Size, keys: Tensor, share: float, *, first: int = 0) -> Tensor:
    """True with probability 1 - share for each place of `shape`, as two int32 keys decide.

    The mixing steps are those of MurmurHash3's 32-bit finaliser (public domain, Austin Appleby), the second
    key between them.
    """
    place = torch.arange(first, first + shape.numel(), dtype=torch.int32, device=keys.device)
    # The key comes before the first product: the compiler folds constants times places beyond int32.
    mixed = (place ^ keys[0] * _signed(0x2C1B3C6D)) * _signed(0x9E3779B1)
    mixed = (mixed ^ ((mixed >> 16) & 0xFFFF)) * _signed(0x85EBCA6B)
    mixed = (mixed ^ ((mixed >> 13) & 0x7FFFF) ^ keys[1] * _signed(0x297A2D39)) * _signed(0xC2B2AE35)
    mixed = mixed ^ ((mixed >> 16) & 0xFFFF)
    return ((mixed & 0xFFFFFF) >= round(share * (1 << 24))).view(shape)


def _signed(value: int) -> int:
    """The int32 of these 32 bits."""
    return value - (1 << 32) if value >> 31 else value

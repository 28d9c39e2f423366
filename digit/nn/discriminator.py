"""Discriminators of VQGAN training: of patches of pixels, and of a frozen network's maps (arXiv:2111.01007).

Both normalise by groups inside one picture: its logits must not depend on which others share the batch.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Logits for overlapping patches of pixels in [0, 1]; `layers` convolutions halve the side."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        """`width`: channels of the first convolution."""
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.LeakyReLU(0.2)]
        channels = width
        for _ in range(layers):
            outputs = min(2 * channels, 4 * width)
            parts += [nn.Conv2d(channels, outputs, 4, 2, 1, bias=False), _norm(outputs), nn.LeakyReLU(0.2)]
            channels = outputs
        parts += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), _norm(channels), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*parts, nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """One map of logits, positive for real."""
        return [self.layers(2 * pixels - 1)]


class MapDiscriminator(nn.Module):
    """Logits for every position of every map of a frozen network: a small head a map.

    Its features are good before it has learned anything, so it teaches from its first hundred steps.
    """

    def __init__(self, channels: list[int], width: int = 64) -> None:
        """`channels` of each map; `width` of every head."""
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, width, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                _norm(width),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 1),
            )
            for inputs in channels
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """A map of logits for each map of unit vectors, positive for real."""
        return [head(each * each.shape[1] ** 0.5) for head, each in zip(self.heads, maps, strict=True)]


def preference(better: list[Tensor], worse: list[Tensor]) -> Float[Tensor, ""]:
    """The relativistic pairing loss (arXiv:1807.00734, 2501.05441): log 2 at chance, 0 where `better` wins.

    A discriminator prefers each picture to its own reconstruction, place by place; the generator wants the
    reverse. Only differences count: neither side gains by a shift of all logits. Maps weigh the same.
    """
    terms = [F.softplus(w.float() - b.float()).mean() for b, w in zip(better, worse, strict=True)]
    return torch.stack(terms).mean()


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(4, channels), channels)

"""What a frozen network sees in pictures, as maps to compare: the perceptual distance of VQGAN training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from digit.nn.backbone import Standardize, create


class PerceptualNetwork(nn.Module):
    """Intermediate maps of a frozen timm network, convolutional or a ViT: pixels -> a list of `b c h w`.

    `size`: pictures are resized to this side first; small ones need it, for filters made for larger things.
    `indices`: which of timm's intermediates, None for all (a ViT: one per block).
    """

    def __init__(
        self,
        name: str,
        *,
        weights: Path | None = None,
        pretrained: bool = False,
        size: int | None = None,
        indices: Sequence[int] | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Arguments as `create` takes them. Raises DigitError as it does."""
        super().__init__()
        self.size = size
        self.network = create(name, weights=weights, pretrained=pretrained, **(arguments or {}))
        self.indices = self.network.prune_intermediate_layers(  # pyright: ignore[reportCallIssue]
            list(indices) if indices is not None else None, prune_norm=True, prune_head=True
        )
        trained_on: Any = getattr(self.network, "pretrained_cfg", None) or {}
        scale = {key: tuple(trained_on[key]) for key in ("mean", "std") if key in trained_on}
        self.standardize = Standardize(**scale)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "PerceptualNetwork":
        """Stay in evaluation mode, whatever the stage around it does: batch statistics must not move."""
        return super().train(False)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Maps from shallow to deep."""
        pixels = self.standardize(pixels)
        if self.size is not None and pixels.shape[-1] != self.size:
            pixels = F.interpolate(pixels, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return self.network.forward_intermediates(  # pyright: ignore[reportCallIssue]
            pixels, indices=self.indices, intermediates_only=True
        )


def unit_maps(maps: list[Tensor]) -> list[Tensor]:
    """Each position's vector at length 1, float32, as LPIPS compares them (arXiv:1801.03924, equation 1)."""
    return [F.normalize(each.float(), dim=1, eps=1e-6) for each in maps]


def distance(a: list[Tensor], b: list[Tensor]) -> Float[Tensor, ""]:
    """Mean over maps and positions of the squared distance of unit vectors; 0 to 4."""
    return torch.stack([(x - y).square().sum(1).mean() for x, y in zip(a, b, strict=True)]).mean()

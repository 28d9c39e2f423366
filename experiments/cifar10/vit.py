"""pixels -> tokens: a small ViT at the pictures' own size, with a mask token and a way to see small views."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from digit.nn.backbone import timm
from digit.training.config import OptimizerConfig


@dataclass(frozen=True)
class ViTConfig:
    """A ViT/4 of 7.1M parameters. `arguments` gives it to timm, so that any timm user can load the export."""

    name: str = "vit_tiny_patch16_224"  # timm's name; everything that the name says is overridden below
    image_size: int = 32  # px
    patch_size: int = 4  # px
    width: int = 256  # channels
    depth: int = 9  # blocks
    heads: int = 4  # attention heads
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)  # of the training pixels, red, green, blue
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)  # of the training pixels

    @property
    def arguments(self) -> dict[str, Any]:
        """What `timm.create_model` takes besides the name and num_classes=0."""
        return {
            "img_size": self.image_size,
            "patch_size": self.patch_size,
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": self.heads,
        }

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


class ViT(nn.Module):
    """timm's ViT (`vit`, the only part that is exported) and a mask token."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ViTConfig) -> None:
        """Random weights, as timm draws them."""
        super().__init__()
        self.config = config
        self.vit = timm().create_model(config.name, num_classes=0, **config.arguments)
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def embed(
        self,
        pixels: Float[Tensor, "b 3 h w"],
        mask: Bool[Tensor, "b n"] | None = None,
        positions: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Class token, then patch tokens with their position; where `mask`, the mask token takes the place.

        `positions` are the places of the full grid that a small view's patches take; None: all, in order.
        """
        tokens = self.vit.patch_embed.proj((pixels - self.mean) / self.std).flatten(2).transpose(1, 2)
        if mask is not None:
            tokens = torch.where(mask.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        places = self.vit.pos_embed[:, 1:] if positions is None else self.vit.pos_embed[:, 1 + positions]
        first = (self.vit.cls_token + self.vit.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        return torch.cat((first.to(tokens.dtype), tokens + places), 1)

    def forward(
        self,
        pixels: Float[Tensor, "b 3 h w"],
        mask: Bool[Tensor, "b n"] | None = None,
        positions: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Class token and patch tokens after the last block and the final norm."""
        return self.vit.norm(self.vit.blocks(self.embed(pixels, mask, positions)))

    def features(
        self, pixels: Float[Tensor, "b 3 h w"], blocks: tuple[int, ...] = (-3,)
    ) -> list[Float[Tensor, "b t d"]]:
        """Class and patch tokens after each of `blocks` (negative: from the end) and the final norm.

        A tokenizer reads the patch tokens of block -3. Never compiled: for measuring, at any batch size.
        """
        tokens, outputs = self.embed(pixels), []
        for block in self.vit.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return [self.vit.norm(outputs[block]) for block in blocks]


def vit_optimizer(lr: float, steps: int) -> OptimizerConfig:
    """How every ViT here is trained: a warm-up of a twentieth of `steps` to `lr`, then a cosine."""
    return OptimizerConfig(
        lr=lr,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        decay_all=False,
        schedule="cosine",
        warmup=max(1, steps // 20),
        min_lr=lr / 100,
    )

"""pixels -> scalar: MAE (arXiv:2111.06377): a ViT sees a quarter of the patches and the rest is restored."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from cifar10.augment import ViewConfig, crop
from cifar10.vit import ViT, ViTConfig
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.nn.backbone import timm
from digit.nn.batch import PixelBatch


@dataclass(frozen=True)
class MaskedAutoencoderConfig:
    """MAE's settings at the scale of a ViT/4."""

    vit: ViTConfig = field(default_factory=ViTConfig)  # the encoder
    view: ViewConfig = field(
        default_factory=ViewConfig
    )  # of it the crop alone: MAE leaves colours as they are
    masked: float = 0.75  # share of patches that the encoder does not see
    width: int = 128  # channels of the decoder
    depth: int = 2  # blocks of the decoder


class MaskedAutoencoder(nn.Module):
    """The stage: `loss(batch)` trains `encoder`, which is what is exported."""

    def __init__(self, config: MaskedAutoencoderConfig) -> None:
        """Random weights."""
        super().__init__()
        self.config = config
        vit, width = config.vit, config.width
        self.encoder = ViT(vit)
        self.encoder.mask_token.requires_grad_(False)  # masked patches are left out instead
        self.narrow = nn.Linear(vit.width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Parameter(0.02 * torch.randn(1 + vit.grid**2, width))
        block = timm().models.vision_transformer.Block
        heads = max(1, width // 32)
        self.decoder = nn.Sequential(*(block(width, heads, qkv_bias=True) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(width)
        self.restore = nn.Linear(width, 3 * vit.patch_size**2)
        self.metrics: dict[str, Tensor] = {}

    def loss(self, batch: PixelBatch) -> Float[Tensor, ""]:
        """Mean squared error of masked patches, each patch standardised (MAE's norm_pix_loss)."""
        pixels, vit = batch.pixels, self.config.vit
        with torch.no_grad():
            pixels = crop(pixels, self.config.view) if self.training else pixels
            order = torch.rand(len(pixels), vit.grid**2, device=pixels.device).argsort(1)
            target = F.layer_norm(_patches(pixels, vit.patch_size), (3 * vit.patch_size**2,))
        shown = vit.grid**2 - round(self.config.masked * vit.grid**2)
        guess = self.restored(pixels, order[:, :shown]).float()
        hidden = order[:, shown:, None].expand(-1, -1, target.shape[2])
        return F.mse_loss(guess.gather(1, hidden), target.gather(1, hidden))

    def restored(
        self, pixels: Float[Tensor, "b 3 h w"], visible: Int[Tensor, "b m"]
    ) -> Float[Tensor, "b n p"]:
        """All patches' standardised pixels, from the `visible` ones alone."""
        vit, b = self.encoder.vit, len(pixels)
        tokens = self.encoder.embed(pixels)
        keep = torch.cat((visible.new_zeros(b, 1), 1 + visible), 1)  # the class token stays
        tokens = tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        narrow = self.narrow(vit.norm(vit.blocks(tokens)))
        everywhere = self.mask_token.to(narrow.dtype).expand(b, len(self.positions), -1)
        placed = everywhere.scatter(1, keep[:, :, None].expand(-1, -1, narrow.shape[2]), narrow)
        return self.restore(self.norm(self.decoder(placed + self.positions)))[:, 1:]


def _patches(pixels: Tensor, side: int) -> Tensor:
    """Pixels by patch in raster order: b, patches, 3 x side x side."""
    return F.unfold(pixels.float(), side, stride=side).transpose(1, 2)

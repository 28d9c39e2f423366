"""pixels <-> VQ codes: convolutions around a codebook (DiGIT, section 3.3; VQGAN, arXiv:2012.09841).

The default is the network the authors render with, MaskGIT's (arXiv:2202.04200); `family="taming"` is that of
taming-transformers. Files of both load key by key.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.errors import DigitError
from digit.nn.autoencoder import BlockStyle, Decoder, Encoder, Family, Shortcut


@dataclass(frozen=True)
class VQGANConfig:
    """Shape of a VQGAN; the default is the official one."""

    image_size: int = 256  # pixels a side
    width: int = 128  # channels at full resolution
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)  # channels of a level, in widths; each halves the side
    blocks: int = 2  # residual blocks a level
    decoder_blocks: int | None = None  # residual blocks a level of the decoder; None: as many as the encoder
    codes: int = 1024  # VQ codes in the codebook
    code_dim: int = 256  # channels of a code's vector
    attention: bool = False  # one attention layer at the lowest resolution
    shortcut: Shortcut = "branch"  # what a channel change projects: the block's branch (MaskGIT) or its input
    normalized_codes: bool = False  # code vectors and latents on the unit sphere: nearest by cosine
    codebook: Literal["ema", "gradient"] = "ema"  # how training moves the codebook
    family: Family = "maskgit"  # whose convolutions; taming: biases, strides, a projection around the codes
    latent_channels: int | None = None  # taming: channels between convolutions and projection; None: code_dim
    attention_levels: tuple[int, ...] = ()  # levels, 0 at full resolution, with attention after each block

    @property
    def downsampling(self) -> int:
        """Pixels a side of one VQ code."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> int:
        """VQ codes a side."""
        return self.image_size // self.downsampling


class VQGAN(nn.Module):
    """Encoder, codebook and decoder; training lives in `VQGANLoss`.

    Raises DigitError where settings do not fit together, such as an image size that is not a multiple of the
    downsampling.
    """

    def __init__(self, config: VQGANConfig) -> None:
        """Random weights."""
        super().__init__()
        _check(config)
        self.config = config
        taming = config.family == "taming"
        latents = config.latent_channels or config.code_dim
        channels = [config.width, *(config.width * multiplier for multiplier in config.multipliers)]
        style = BlockStyle(config.family, config.shortcut, config.attention, config.attention_levels)
        blocks = config.blocks if config.decoder_blocks is None else config.decoder_blocks
        self.encoder = Encoder(channels, blocks=config.blocks, latents=latents, style=style)
        self.decoder = Decoder(channels, blocks=blocks, latents=latents, style=style)
        self.quant_conv = nn.Conv2d(latents, config.code_dim, 1) if taming else nn.Identity()
        self.post_quant_conv = nn.Conv2d(config.code_dim, latents, 1) if taming else nn.Identity()
        self.quantize = Quantizer(config)
        # What the convolutions call black and white; taming's read and write pixels in [-1, 1].
        self.black, self.white = (-1, 1) if taming else (0, 1)
        grey = (self.black + self.white) / 2
        nn.init.constant_(self.decoder.conv_out.get_parameter("bias"), grey)  # training starts there

    @property
    def grid(self) -> int:
        """VQ codes a side."""
        return self.config.grid

    @property
    def length(self) -> int:
        """VQ codes of a picture."""
        return self.grid**2

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """VQ codes of pixels in [0, 1], in raster order. Sides may be any multiple of the downsampling."""
        return self.quantize(self.latents(pixels))[0]

    def decode(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels in [0, 1] of `length` VQ codes in raster order."""
        if codes.shape[1] != self.length:
            raise DigitError(f"this VQGAN decodes {self.length} VQ codes a picture, not {codes.shape[1]}")
        vectors = self.quantize.vectors(codes)
        latents = vectors.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.decode_latents(latents).clamp(0, 1)

    def latents(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """What is quantised of pixels in [0, 1], float32."""
        side = self.config.downsampling
        if pixels.shape[2] % side or pixels.shape[3] % side:
            raise DigitError(
                f"pictures are {pixels.shape[3]}x{pixels.shape[2]}: sides must be multiples of {side}"
            )
        latents = self.encoder(self.black + (self.white - self.black) * pixels)
        with torch.autocast(pixels.device.type, enabled=False):  # as for the encoder's last convolution
            return self.quant_conv(latents.float())

    def decode_latents(self, latents: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels, black at 0 and white at 1 but not clamped, of quantised latents, float32."""
        pixels = self.decoder.conv_out(self.decoder(self.post_quant_conv(latents))).float()
        return (pixels - self.black) / (self.white - self.black)


class Quantizer(nn.Module):
    """The codebook, float32 also under autocast: bfloat16 distances pick wrong neighbours."""

    def __init__(self, config: VQGANConfig) -> None:
        """Random vectors."""
        super().__init__()
        self.normalized = config.normalized_codes
        self.embedding = nn.Embedding(config.codes, config.code_dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.codes, 1 / config.codes)
        if self.normalized:
            nn.init.normal_(self.embedding.weight)

    def forward(
        self, latents: Float[Tensor, "b d gh gw"]
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b d gh gw"]]:
        """The nearest codes and their vectors in the latents' places."""
        codes = self.nearest(latents.flatten(2).transpose(1, 2))
        return codes, self.vectors(codes).transpose(1, 2).unflatten(2, latents.shape[2:])

    def project(self, latents: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b d gh gw"]:
        """Latents where code vectors live; normalised ones have unit mean square, as convolutions like it."""
        if not self.normalized:
            return latents.float()
        return F.normalize(latents.float(), dim=1) * latents.shape[1] ** 0.5

    def vectors(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The vectors of codes, as the decoder reads them."""
        vectors = self.embedding(codes).float()
        return F.normalize(vectors, dim=-1) * vectors.shape[-1] ** 0.5 if self.normalized else vectors

    @torch.no_grad()
    def nearest(self, latents: Float[Tensor, "*b d"]) -> Int[Tensor, "*b"]:
        """Index of the nearest code by squared distance, by cosine where codes are normalised."""
        with torch.autocast(latents.device.type, enabled=False):
            rows, table = latents.float(), self.embedding.weight.float()
            if self.normalized:
                # The length of a latent does not change which code has the largest cosine.
                return (rows @ F.normalize(table, dim=1).T).argmax(-1)
            distances = rows.square().sum(-1, keepdim=True) - 2 * (rows @ table.T) + table.square().sum(1)
            return distances.argmin(-1)


def _check(config: VQGANConfig) -> None:
    """DigitError where settings contradict each other."""
    levels = len(config.multipliers)
    if config.image_size % config.downsampling:
        raise DigitError(
            f"image_size {config.image_size} is not a multiple of {config.downsampling}, which "
            f"{levels} multipliers give: change image_size or multipliers"
        )
    outside = [level for level in config.attention_levels if not 0 <= level < levels]
    if outside:
        raise DigitError(f"attention_levels name level {outside[0]}: this VQGAN has levels 0 to {levels - 1}")
    if config.family == "taming" and config.shortcut == "branch":
        raise DigitError("taming's blocks project their input where channels change: set shortcut to input")
    if config.family == "maskgit" and config.latent_channels not in (None, config.code_dim):
        raise DigitError(
            f"latent_channels {config.latent_channels} beside code_dim {config.code_dim} need the projection "
            "that only taming has: set family to taming, or leave latent_channels out"
        )

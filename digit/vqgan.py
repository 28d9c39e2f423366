"""pixels <-> VQ codes: convolutions around a codebook (DiGIT, section 3.3; VQGAN, arXiv:2012.09841).

The default is the network the authors render with, MaskGIT's: its file loads key by key.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.errors import DigitError


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
    shortcut: Literal["branch", "input"] = "branch"  # what a channel change projects, see _ResidualBlock
    normalized_codes: bool = False  # code vectors and latents on the unit sphere: nearest by cosine
    codebook: Literal["ema", "gradient"] = "ema"  # how training moves the codebook

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

    Raises DigitError where the image size is not a multiple of the downsampling.
    """

    def __init__(self, config: VQGANConfig) -> None:
        """Random weights."""
        super().__init__()
        if config.image_size % config.downsampling:
            raise DigitError(
                f"image_size {config.image_size} is not a multiple of {config.downsampling}, which "
                f"{len(config.multipliers)} multipliers give: change image_size or multipliers"
            )
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantize = Quantizer(config)

    @property
    def grid(self) -> int:
        """VQ codes a side."""
        return self.config.grid

    @property
    def length(self) -> int:
        """VQ codes of a picture."""
        return self.grid**2

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """VQ codes in raster order. Sides may be any multiple of the downsampling."""
        return self.quantize(self.latents(pixels))[0]

    def decode(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels in [0, 1] of `length` VQ codes in raster order."""
        if codes.shape[1] != self.length:
            raise DigitError(f"this VQGAN decodes {self.length} VQ codes a picture, not {codes.shape[1]}")
        vectors = self.quantize.vectors(codes)
        latents = vectors.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.decode_latents(latents).clamp(0, 1)

    def latents(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """The encoder's output before quantisation, float32."""
        side = self.config.downsampling
        if pixels.shape[2] % side or pixels.shape[3] % side:
            raise DigitError(
                f"pictures are {pixels.shape[3]}x{pixels.shape[2]}: sides must be multiples of {side}"
            )
        return self.encoder(pixels).float()

    def decode_latents(self, latents: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels, not clamped, of quantised latents, float32."""
        return self.decoder.conv_out(self.decoder(latents)).float()


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


class _Encoder(nn.Module):
    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1, bias=False)
        self.down = nn.ModuleList()
        channels = config.width
        for width in widths:
            self.down.append(_Level(channels, width, config.blocks, config))
            channels = width
        self.mid = _Middle(channels, config)
        self.norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, config.code_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for i, level in enumerate(self.down):
            x = level(x if i == 0 else F.avg_pool2d(x, 2))
        x = F.silu(self.norm_out(self.mid(x)))
        with torch.autocast(
            x.device.type, enabled=False
        ):  # latents may lie closer together than bfloat16 resolves
            return self.conv_out(x.float())


class _Decoder(nn.Module):
    """Up to the last convolution, `conv_out`, which the adversarial loss balances by from outside."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.width * multiplier for multiplier in config.multipliers]
        blocks = config.blocks if config.decoder_blocks is None else config.decoder_blocks
        channels = widths[-1]
        self.conv_in = nn.Conv2d(config.code_dim, channels, 3, padding=1)
        self.mid = _Middle(channels, config)
        levels = []
        for i in reversed(range(len(widths))):
            levels.append(_Level(channels, widths[i], blocks, config, upsample=i > 0))
            channels = widths[i]
        self.up = nn.ModuleList(reversed(levels))  # the file counts from full resolution
        self.norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)
        nn.init.constant_(self.conv_out.get_parameter("bias"), 0.5)  # training starts at grey

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for i in reversed(range(len(self.up))):
            x = self.up[i](x)
        return F.silu(self.norm_out(x))


class _Level(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, blocks: int, config: VQGANConfig, *, upsample: bool = False
    ) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(_ResidualBlock(outputs if i else inputs, outputs, config.shortcut) for i in range(blocks))
        )
        self.upsample = _Upsample(outputs) if upsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.block(x))


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, shortcut: str) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.from_branch = shortcut == "branch"
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(outputs if self.from_branch else inputs, outputs, 1, bias=False)
        self.changes = inputs != outputs

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if self.changes:
            # MaskGIT's port projects the branch and drops x where the channels change; its weights need that.
            x = self.nin_shortcut(h if self.from_branch else x)
        return x + h


class _Middle(nn.Module):
    def __init__(self, channels: int, config: VQGANConfig) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(channels, channels, config.shortcut)
        self.attn_1 = _Attention(channels) if config.attention else nn.Identity()
        self.block_2 = _ResidualBlock(channels, channels, config.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(4, channels)
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        q, k, v = rows.unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed.transpose(-1, -2).reshape(x.shape))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)

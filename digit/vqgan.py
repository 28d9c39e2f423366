"""pixels <-> VQ codes: convolutions around a codebook (DiGIT, section 3.3; VQGAN, arXiv:2012.09841).

The default is the network the authors render with, MaskGIT's (arXiv:2202.04200); `family="taming"` is that of
taming-transformers. Files of both load key by key.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from digit.errors import DigitError
from digit.nn.autoencoder import BlockStyle, Decoder, Encoder
from digit.nn.autoencoder_inference import InferenceDecoder, InferenceEncoder
from digit.nn.batch import in_pieces
from digit.vqgan_config import VQGANConfig


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
        return self.decode_latents(self.code_latents(codes)).clamp(0, 1)

    def code_latents(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b d gh gw"]:
        """The vectors of `length` VQ codes at their places."""
        if codes.shape[1] != self.length:
            raise DigitError(f"this VQGAN decodes {self.length} VQ codes a picture, not {codes.shape[1]}")
        return self.quantize.vectors(codes).transpose(1, 2).unflatten(2, (self.grid, self.grid))

    def latents(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """What is quantised of pixels in [0, 1], float32."""
        self.check_sides(pixels)
        return self.project(self.encoder(self.black + (self.white - self.black) * pixels))

    def project(self, latents: Float[Tensor, "b z gh gw"]) -> Float[Tensor, "b d gh gw"]:
        """The encoder's latents where codes are, float32 as its last convolution."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.quant_conv(latents.float())

    def check_sides(self, pixels: Shaped[Tensor, "b 3 h w"]) -> None:
        """DigitError where the sides of pictures are no multiples of the downsampling."""
        side = self.config.downsampling
        if pixels.shape[2] % side or pixels.shape[3] % side:
            raise DigitError(
                f"pictures are {pixels.shape[3]}x{pixels.shape[2]}: sides must be multiples of {side}"
            )

    def decode_latents(self, latents: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels, black at 0 and white at 1 but not clamped, of quantised latents, float32."""
        pixels = self.decoder.conv_out(self.decoder(self.post_quant_conv(latents))).float()
        return (pixels - self.black) / (self.white - self.black)


class InferenceVQGAN:
    """Encoding and decoding by the forms for inference of a VQGAN's convolutions; the codebook as it is.

    Args:
        vqgan: whose weights are copied.
        dtype: of convolutions and activations.
        fold: compute the decoder's doublings on the small side.
        tail: pictures at once in the decoder's last two levels; all of a call if left out.
        most: pictures at once. What does not fit into memory is halved, whatever this says.
    """

    def __init__(
        self,
        vqgan: VQGAN,
        *,
        dtype: torch.dtype = torch.bfloat16,
        fold: bool = True,
        tail: int | None = None,
        most: int = 128,
    ) -> None:
        self.vqgan, self.most = vqgan, most
        ends = {"black": float(vqgan.black), "white": float(vqgan.white)}
        self._encoder = InferenceEncoder(vqgan.encoder, dtype=dtype, **ends)
        self._decoder = InferenceDecoder(vqgan.decoder, dtype=dtype, fold=fold, tail=tail, **ends)

    def latents(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """What is quantised, float32, of pixels: uint8, or float in [0, 1]."""
        self.vqgan.check_sides(pixels)
        return in_pieces(lambda part: self.vqgan.project(self._encoder(part)), pixels, self.most)

    @torch.no_grad()
    def encode(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """VQ codes of pixels, in raster order."""
        return self.vqgan.quantize(self.latents(pixels))[0]

    @torch.no_grad()
    def decode(
        self, codes: Int[Tensor, "b n"], *, kind: torch.dtype = torch.uint8
    ) -> Shaped[Tensor, "b 3 h w"]:
        """Pixels of VQ codes in raster order: uint8, or float32 in [0, 1]."""

        def decoded(part: Tensor) -> Tensor:
            latents = self.vqgan.code_latents(part)
            with torch.autocast(part.device.type, enabled=False):
                return self._decoder(self.vqgan.post_quant_conv(latents), kind=kind)

        return in_pieces(decoded, codes, self.most)


def encoding(vqgan: VQGAN) -> Callable[[Shaped[Tensor, "b 3 h w"]], Int[Tensor, "b n"]]:
    """The fastest way from pictures, uint8 or float in [0, 1], to VQ codes, for many pictures.

    On a GPU the form for inference in float16, and pictures whose activations overflow it again by the module
    under bf16 autocast. On a CPU the module as it is.
    """

    @torch.no_grad()
    def plain(pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
            return vqgan.encode(pixels / 255 if pixels.dtype == torch.uint8 else pixels)

    if not vqgan.quantize.embedding.weight.is_cuda:
        return plain
    form = InferenceVQGAN(vqgan, dtype=torch.float16)

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        latents = form.latents(pixels)
        return vqgan.quantize(latents)[0] if latents.isfinite().all() else plain(pixels)

    return encode


def decoding(vqgan: VQGAN) -> Callable[[Int[Tensor, "b n"]], Float[Tensor, "b 3 h w"]]:
    """The fastest way from VQ codes to pixels in [0, 1], for many pictures.

    On a GPU the form for inference in float16, and pictures whose activations overflow it again by the
    module. On a CPU the module as it is.
    """
    return by_form(vqgan) if vqgan.quantize.embedding.weight.is_cuda else vqgan.decode


def by_form(vqgan: VQGAN) -> Callable[[Int[Tensor, "b n"]], Float[Tensor, "b 3 h w"]]:
    """Decoding by the form for inference, where float16 suffices."""
    form = InferenceVQGAN(vqgan, dtype=torch.float16)

    @torch.no_grad()
    def decode(codes: Tensor) -> Tensor:
        pixels = form.decode(codes, kind=torch.float32)
        overflowed = ~pixels.flatten(1).isfinite().all(1)
        if overflowed.any():
            pixels[overflowed] = vqgan.decode(codes[overflowed])
        return pixels

    return decode


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

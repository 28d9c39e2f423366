"""pixels <-> VQ codes: convolutions around a codebook (DiGIT, section 3.3; VQGAN, arXiv:2012.09841).

The default is the network the authors render with, MaskGIT's (arXiv:2202.04200); `family="taming"` is that of
taming-transformers. Files of both load key by key.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from digit.calls import checked
from digit.errors import DigitError
from digit.nn.autoencoder import BlockStyle, Decoder, Encoder
from digit.nn.backbone import as_floats, in_range
from digit.nn.batch import in_pieces
from digit.nn.checks import check_vocabulary
from digit.nn.summary import in_a_line
from digit.vqgan_config import VQGANConfig


class VQGAN(nn.Module):
    """Encoder, codebook and decoder; training lives in `VQGANLoss`.

    Raises DigitError where settings do not fit together, such as an image size that is not a multiple of the
    downsampling.
    """

    @checked
    def __init__(self, config: VQGANConfig) -> None:
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

    def __repr__(self) -> str:
        """One line."""
        return in_a_line(
            self,
            f"{self.config.image_size} px",
            f"{self.grid} x {self.grid} VQ codes of {self.config.codes:,}",
        )

    @property
    def grid(self) -> int:
        """VQ codes per side."""
        return self.config.grid

    @property
    def length(self) -> int:
        """VQ codes of a picture."""
        return self.grid**2

    @checked
    def encode(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """VQ codes in raster order of pixels, uint8 or floats in [0, 1]; DigitError for others.

        Sides may be any multiple of the downsampling.
        """
        return self.quantize(self.latents(in_range(pixels)))[0]

    @checked
    def decode(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels in [0, 1] of `length` VQ codes in raster order, with gradients unless torch.no_grad().

        DigitError for codes that it has not.
        """
        check_vocabulary(codes, self.config.codes)
        return self.decode_latents(self.code_latents(codes)).clamp(0, 1)

    def code_latents(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b d gh gw"]:
        """The vectors of `length` VQ codes at their places."""
        if codes.shape[1] != self.length:
            raise DigitError(f"this VQGAN decodes {self.length} VQ codes per picture, not {codes.shape[1]}")
        return self.quantize.vectors(codes).transpose(1, 2).unflatten(2, (self.grid, self.grid))

    def latents(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b d gh gw"]:
        """What is quantised of pixels, uint8 or floats of which 0 is black and 1 white; float32."""
        self.check_sides(pixels)
        return self.project(self.encoder(self.scaled(as_floats(pixels))))

    def scaled(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels in [0, 1] from what the convolutions call black to what they call white."""
        return self.black + (self.white - self.black) * pixels

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

    def forward(self, latents: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b 3 h w"]:
        """The same as `decode_latents`."""
        return self.decode_latents(latents)

    def decode_latents(self, latents: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels, black at 0 and white at 1 but not clamped, of quantised latents, float32."""
        pixels = self.decoder.conv_out(self.decoder(self.post_quant_conv(latents))).float()
        return (pixels - self.black) / (self.white - self.black)


def vq_encoding(vqgan: VQGAN) -> Callable[[Shaped[Tensor, "b 3 h w"]], Int[Tensor, "b n"]]:
    """The fastest way from pictures, uint8 or float in [0, 1], to VQ codes, for many pictures.

    On a GPU with float16 convolutions (`encoding_in_half`), on a CPU by the module as it is.
    """
    if vqgan.quantize.embedding.weight.is_cuda:
        encode = encoding_in_half(vqgan)
        return lambda pixels: in_pieces(encode, pixels, most=128)
    return torch.no_grad()(vqgan.encode)


def decoding(vqgan: VQGAN) -> Callable[[Int[Tensor, "b n"]], Float[Tensor, "b 3 h w"]]:
    """The fastest way from VQ codes to pixels in [0, 1], for many pictures.

    On a GPU with float16 convolutions (`decoding_in_half`), on a CPU by the module as it is.
    """
    if vqgan.quantize.embedding.weight.is_cuda:
        decode = decoding_in_half(vqgan)
        return lambda codes: in_pieces(decode, codes, most=128)
    return vqgan.decode


def encoding_in_half(vqgan: VQGAN) -> Callable[[Shaped[Tensor, "b 3 h w"]], Int[Tensor, "b n"]]:
    """Pixels to VQ codes by float16 convolutions up to the last, which stays exact float32 as the codes do.

    Weights are copied now. Pictures of which one overflows float16 are encoded under bfloat16 autocast.
    """
    state = vqgan.encoder.state_dict()
    weights = {name: w if name.startswith("conv_out.") else w.half() for name, w in state.items()}

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        pixels = as_floats(pixels)
        vqgan.check_sides(pixels)
        # Without TF32, for the last convolution; torch would switch cuDNN off here unless told otherwise.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            latents = vqgan.project(functional_call(vqgan.encoder, weights, vqgan.scaled(pixels).half()))
        if not latents.isfinite().all():
            with torch.autocast(pixels.device.type, torch.bfloat16):
                latents = vqgan.latents(pixels)
        return vqgan.quantize(latents)[0]

    return encode


def decoding_in_half(vqgan: VQGAN) -> Callable[[Int[Tensor, "b n"]], Float[Tensor, "b 3 h w"]]:
    """VQ codes to pixels by float16 convolutions; weights are copied now, which takes about a millisecond.

    Pictures that overflow float16 are decoded by the module.
    """
    parts = ("decoder.", "post_quant_conv.")
    weights = {name: w.half() for name, w in vqgan.state_dict().items() if name.startswith(parts)}

    @torch.no_grad()
    def decode(codes: Tensor) -> Tensor:
        latents = vqgan.code_latents(codes)
        pixels = functional_call(vqgan, weights, latents.half())
        overflowed = ~pixels.flatten(1).isfinite().all(1)
        if overflowed.any():
            pixels[overflowed] = vqgan(latents[overflowed])
        return pixels.clamp(0, 1)

    return decode


class Quantizer(nn.Module):
    """The codebook, float32 also under autocast: bfloat16 distances pick wrong neighbours."""

    def __init__(self, config: VQGANConfig) -> None:
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

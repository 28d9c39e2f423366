"""The settings of a VQGAN and of its training; readable without torch."""

from dataclasses import dataclass
from typing import Literal

from digit.bounds import Codebook, Count, Decay, Depth, Share, Side, Size, Weight, Whole
from digit.calls import check_fields
from digit.errors import DigitError

Family = Literal["maskgit", "taming"]
Shortcut = Literal["branch", "input"]


@dataclass(frozen=True)
class VQGANConfig:
    """Shape of a VQGAN; the default is the official one."""

    image_size: Side = 256  # pixels per side
    width: Size = 128  # channels at full resolution
    multipliers: tuple[Depth, ...] = (1, 1, 2, 2, 4)  # channels of a level, in widths; each halves the side
    blocks: Depth = 2  # residual blocks per level
    decoder_blocks: Depth | None = None  # residual blocks per level of the decoder; None: as the encoder
    codes: Codebook = 1024  # VQ codes in the codebook
    code_dim: Size = 256  # channels of a code's vector
    attention: bool = False  # one attention layer at the lowest resolution
    shortcut: Shortcut = "branch"  # what a channel change projects: the block's branch (MaskGIT) or its input
    normalized_codes: bool = False  # code vectors and latents on the unit sphere: nearest by cosine
    codebook: Literal["ema", "gradient"] = "ema"  # how training moves the codebook
    family: Family = "maskgit"  # whose convolutions; taming: biases, strides, a projection around the codes
    latent_channels: Size | None = (
        None  # taming: channels between convolutions and projection; None: code_dim
    )
    attention_levels: tuple[int, ...] = ()  # levels, 0 at full resolution, with attention after each block

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        check_fields(self)
        if not self.multipliers:
            raise DigitError("multipliers: give at least one, for full resolution")

    @property
    def downsampling(self) -> int:
        """Pixels per side of one VQ code."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> int:
        """VQ codes per side."""
        return self.image_size // self.downsampling


@dataclass(frozen=True)
class VQGANLossConfig:
    """Weights and times of the terms; a step is one call of `loss` in training."""

    l1: Weight = 1.0  # weight of the mean absolute difference of pixels
    l2: Weight = 0.0  # weight of the mean squared difference of pixels
    perceptual: str | None = None  # timm name of the frozen network that compares pictures; None: pixels only
    perceptual_size: Side | None = None  # pixels per side at which it looks; None: as they are
    perceptual_maps: tuple[int, ...] | None = None  # which of its intermediate maps; None: all
    perceptual_weight: Weight = 1.0  # of the perceptual distance
    commitment: Weight = 0.25  # weight of the latents' distance to their codes
    codebook_decay: Decay = 0.95  # of the codebook's moving averages, per step
    dead_after: Count = 20  # steps without use after which a code restarts at a latent
    continuous_steps: Whole = (
        0  # first steps without quantisation; the codebook then starts on better latents
    )
    adversarial_weight: Weight = 0.5  # the discriminators' gradient at the last convolution, in the others'
    adversarial_start: Whole = 0  # step at which the discriminators begin to teach
    adversarial_ramp: Count = 1  # steps over which their weight then grows
    adversarial_margin: Share = 0.1  # how far below log 2 (a share of it) their loss must be to teach fully
    discriminate_patches: bool = True  # a discriminator of pixels
    discriminate_maps: bool = False  # a discriminator of the perceptual network's maps
    discriminator_width: Size = 64  # its first channels
    discriminator_layers: Depth = 2  # times the patch discriminator halves the side
    discriminator_slope: Weight = 0.02  # weight of the squared slope of their logits; 0: none
    discriminator_ahead: Whole = 200  # steps before adversarial_start at which they begin to learn

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        check_fields(self)

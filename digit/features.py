"""pixels -> features: patch tokens of an inner block of a frozen self-supervised ViT (DiGIT, section 3.2).

Of another network of timm the vectors of one of its maps.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from digit.calls import check_fields, checked
from digit.errors import DigitError
from digit.nn.backbone import Standardize, as_floats, create, licence_of, pretrained_settings, timm
from digit.nn.batch import in_pieces
from digit.nn.maps import Maps, cut
from digit.nn.summary import in_a_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderConfig:
    """A network of timm, the size at which it sees a picture, and the block whose output is read."""

    name: str  # timm's name of the network
    image_size: int  # side in pixels at which it sees a picture
    block: int = -3  # or stage whose output is read, negative from the end: -3 of 12 is block index 9
    norm: bool = (
        True  # apply the final norm to that output; many networks of stages have one for the last alone
    )
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of red, green, blue in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # of red, green, blue in [0, 1]
    arguments: dict[str, Any] = field(
        default_factory=dict
    )  # timm's for a ViT, such as patch_size, embed_dim, depth
    hosted: bool = True  # whether timm can fetch weights that deserve this name
    position_rule: Literal["timm", "reference"] = "timm"  # how loaded positions are resized to image_size

    def __post_init__(self) -> None:
        """Fail at construction with the field's name."""
        check_fields(self)


# Short names of the paper's encoders. timm hosts no iBOT and no MoCo v3 weights: both are its plain ViT-B/16.
_PRESETS: dict[str, tuple[str, bool]] = {
    "dinov2-s": ("vit_small_patch14_dinov2", True),
    "dinov2-b": ("vit_base_patch14_dinov2", True),
    "dinov2-l": ("vit_large_patch14_dinov2", True),
    "dinov2-s-reg": ("vit_small_patch14_reg4_dinov2", True),
    "dinov2-b-reg": ("vit_base_patch14_reg4_dinov2", True),
    "dinov2-l-reg": ("vit_large_patch14_reg4_dinov2", True),
    "dinov3-s": ("vit_small_patch16_dinov3", True),
    "dinov3-b": ("vit_base_patch16_dinov3", True),
    "dinov3-l": ("vit_large_patch16_dinov3", True),
    "ibot-b": ("vit_base_patch16_224", False),
    "mocov3-b": ("vit_base_patch16_224", False),
    "mae-b": ("vit_base_patch16_224.mae", True),
}
# Towers that learned from texts; size and scale of pictures are timm's. OpenAI's own GELU is the quick one.
_TOWERS = {
    "siglip2-b": "vit_base_patch16_siglip_224.v2_webli",
    "siglip2-l": "vit_large_patch16_siglip_256.v2_webli",
    "siglip2-so400m": "vit_so400m_patch14_siglip_224.v2_webli",
    "clip-b": "vit_base_patch16_clip_quickgelu_224.openai",
    "clip-l": "vit_large_patch14_clip_quickgelu_224.openai",
}
_MOST = 256  # patches along a side: 65,536 codes of a picture, a hundred times what a prior reads


@checked
def encoder_config(name: str, image_size: int | None = None, **settings: Any) -> EncoderConfig:
    """The settings of an encoder by its short name, or of any network of timm by its name there.

    Short names are dinov2-s, -b, -l and each with -reg, dinov3-s, -b, -l, ibot-b, mocov3-b, mae-b: 224 pixels
    unless `image_size` says otherwise. siglip2-b, -so400m, clip-b, -l (224 pixels), siglip2-l (256) and other
    names take size, mean and std from timm. `settings` are further fields of EncoderConfig.

    Raises:
        DigitError: a field that EncoderConfig does not have, or a name without a known size and none given.
    """
    if unknown := set(settings) - {entry.name for entry in dataclasses.fields(EncoderConfig)}:
        raise DigitError(
            f"an encoder has no setting {sorted(unknown)[0]!r}: see EncoderConfig for those it has"
        )
    if name in _PRESETS:
        architecture, hosted = _PRESETS[name]
        return EncoderConfig(architecture, image_size or 224, **{"hosted": hosted, **settings})
    name = _TOWERS.get(name, name)
    known = pretrained_settings(name)
    if known is None:
        if image_size is None:
            raise DigitError(
                f"timm knows no size for the encoder {name!r}: check the name or give the size in pixels"
            )
        return EncoderConfig(name, image_size, **settings)
    taken = {"mean": tuple(known.mean), "std": tuple(known.std)}
    return EncoderConfig(name, image_size or known.input_size[-1], **{**taken, **settings})


class Encoder(nn.Module):
    """A frozen network of timm, cut after the block or stage that is read; later ones are not stored.

    Args:
        config: the network and what is read from it.
        weights: a local safetensors file of the whole network, in timm's or DINOv2's names; random if none.
        pretrained: with no file, let timm fetch its published weights.

    Raises:
        DigitError: no such network, a block it does not have, a size its patches do not divide, bad weights.
    """

    @checked
    def __init__(
        self, config: EncoderConfig, weights: Path | None = None, *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        if pretrained and weights is None and not config.hosted:
            raise DigitError(
                f"the weights of this encoder ({config.name}) are not hosted by timm: pass --encoder-weights "
                "FILE"
            )
        # Licence and place on the hub of weights that timm fetched, for whoever passes them on.
        self.origin = published(config.name) if pretrained and weights is None else {}
        self.maps: Maps | None = None  # of networks that are no plain ViT
        self.vit: Any  # whatever the network: by this name its tensors are known
        if is_vit(config.name):
            self.vit = _cut_vit(_build(config, weights, pretrained=pretrained), config)
        else:
            self.vit = _build_other(config, weights, pretrained=pretrained)
            how: Any = {"norm": config.norm, "size": config.image_size, "most": _MOST, "name": config.name}
            self.maps = cut(self.vit, config.block, **how)
        self.standardize = Standardize(config.mean, config.std)
        self.requires_grad_(False).eval()

    def __repr__(self) -> str:
        """One line."""
        return in_a_line(
            self, f"{self.config.name} at {self.config.image_size} px", f"block {self.config.block}"
        )

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.maps.grid if self.maps else self.vit.patch_embed.grid_size[0]

    @property
    def tokens(self) -> int:
        """Feature vectors of a picture, in raster order."""
        return self.grid**2

    @property
    def width(self) -> int:
        """Channels of a feature vector."""
        return self.maps.width if self.maps else self.vit.embed_dim

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.standardize.mean.device

    @property
    def flops(self) -> int:
        """Floating-point operations for a picture, of the blocks' matrices and of attention."""
        if self.maps:
            side = self.config.image_size
            return operations(self, torch.empty(1, 3, side, side, device="meta"))
        tokens = self.tokens + self.vit.num_prefix_tokens
        matrices = sum(each.numel() for each in self.vit.blocks.parameters() if each.ndim == 2)
        return 2 * tokens * matrices + 4 * tokens**2 * self.width * len(self.vit.blocks)

    def train(self, mode: bool = True) -> "Encoder":
        """Stays in evaluation mode: the encoder is frozen."""
        return super().train(False)

    def forward(self, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """The features of square pictures of any size, without the ViT's class and register tokens.

        Pixels are uint8, or floats of which 0 is black and 1 white.
        Pictures of another size are resized after standardising by torch's bicubic rule without antialiasing,
        as the published code does from 256 to 224; make much larger ones smaller beforehand.

        Raises:
            DigitError: pictures that are not square.
        """
        height, width = pixels.shape[-2:]
        if height != width:
            raise DigitError(
                f"the encoder takes square pictures, these have {height} x {width} pixels: crop them first"
            )
        pixels = self.standardize(as_floats(pixels))
        size = self.config.image_size
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels.float(), size=(size, size), mode="bicubic", align_corners=False)
        return self._features(pixels)

    def _features(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b n d"]:
        """The features of pictures that are standardised and of the network's size."""
        if self.maps:
            return self.maps.read(self.vit, pixels)
        return self.vit.forward_features(pixels)[:, self.vit.num_prefix_tokens :]


def reading(encoder: Encoder) -> Callable[[Shaped[Tensor, "b 3 h w"]], Float[Tensor, "b n d"]]:
    """The fastest way from square pictures, uint8 or float in [0, 1], to features, for many pictures.

    On a GPU the module under float16 autocast, fewer pictures at once where they do not fit into memory; on a
    CPU the module as it is.
    """

    @torch.no_grad()
    def read(pixels: Tensor) -> Tensor:
        if pixels.is_cuda:
            return in_pieces(lambda part: in_half(encoder, part), pixels, most=512)
        return encoder(pixels)

    return read


def published(name: str) -> dict[str, str]:
    """What timm says of the weights that it fetches for a network: their licence, their place on the hub."""
    told = {
        "licence": licence_of(name),
        "base_model": getattr(pretrained_settings(name), "hf_hub_id", None),
    }
    return {entry: str(value) for entry, value in told.items() if value}


def in_half(encoder: Encoder, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
    """Features under float16 autocast, eight times as precise as bfloat16, which takes what overflows it."""
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast(pixels.device.type, dtype):
            features = encoder(pixels)
        if features.isfinite().all():
            break
    return features


@torch.no_grad()
def operations(encoder: nn.Module, pixels: Float[Tensor, "b 3 s s"]) -> int:
    """Floating-point operations of a module for these pictures, as torch counts them.

    On the meta device nothing is computed.
    """
    tensors = itertools.chain(encoder.named_parameters(), encoder.named_buffers())
    with FlopCounterMode(display=False) as counted:
        functional_call(encoder, {name: each.to(pixels.device) for name, each in tensors}, (pixels,))
    return counted.get_total_flops()


def is_vit(name: str) -> bool:
    """Whether timm's network of this name is a plain ViT, or DINOv3's: of others a map is read."""
    name = name.split(".")[0]
    return "_dinov3" in name or timm().models.is_model_in_modules(name, ["vision_transformer"])


def _build_other(config: EncoderConfig, weights: Path | None, *, pretrained: bool) -> nn.Module:
    """The whole network that is no plain ViT, at the wanted size, with its weights."""
    if config.arguments:  # they could ask for any number of stages, which are made before they are counted
        raise DigitError(f"{config.name} takes no arguments, which are a ViT's: leave them out")
    known = pretrained_settings(config.name)
    fixed = known is not None and known.fixed_input_size and known.input_size[-1] != config.image_size
    size: dict[str, Any] = {"img_size": config.image_size} if fixed else {}
    return create(config.name, weights=weights, pretrained=pretrained, num_classes=0, **size)


def _cut_vit(vit: Any, config: EncoderConfig) -> nn.Module:
    """A ViT without what follows the block that is read; DigitError where it lacks block or norm."""
    depth = len(vit.blocks)
    if not -depth <= config.block < depth:
        raise DigitError(
            f"{config.name} has {depth} blocks, none numbered {config.block}: choose one from -{depth}"
        )
    if config.norm and isinstance(vit.norm, nn.Identity):
        raise DigitError(f"{config.name} has no final norm: set norm to false, or choose another encoder")
    vit.prune_intermediate_layers([config.block % depth], prune_norm=not config.norm, prune_head=True)
    return vit


def _build(config: EncoderConfig, weights: Path | None, *, pretrained: bool) -> nn.Module:
    """The whole ViT at the wanted size, with its weights."""
    architecture = config.name.split(".")[0]
    rotary = "_dinov3" in architecture
    # Under the reference's rule the positions are loaded at the ViT's own size and resized here, not by timm.
    resize = config.position_rule == "reference" and (pretrained or weights is not None) and not rotary
    size: dict[str, Any] = {} if resize else {"img_size": config.image_size}
    if rotary:
        size["dynamic_img_size"] = False  # positions are computed once, not at every call
    patches = re.search(r"patch(\d+)", architecture)
    side = config.arguments.get("patch_size", patches and int(patches[1]))
    if isinstance(side, int) and config.image_size > _MOST * max(side, 1):
        count = (config.image_size // max(side, 1)) ** 2
        raise DigitError(
            f"{config.name} at {config.image_size} pixels reads {count:,} patches, each of which looks at "
            f"all others: give an --encoder-size of at most {_MOST * side}"
        )
    # No head and no pooling, so that the final norm is the one over tokens.
    arguments = {"num_classes": 0, "global_pool": "", **size, **config.arguments}
    vit: Any = create(config.name, weights=weights, pretrained=pretrained, **arguments)
    grid = vit.patch_embed.grid_size  # of arguments that say more than `image_size` and `patch_size` too
    if max(grid) > _MOST:
        raise DigitError(
            f"{config.name} with its arguments reads {grid[0]:,} x {grid[1]:,} patches: give fewer"
        )
    patch = vit.patch_embed.patch_size[0]
    if config.image_size % patch:
        raise DigitError(
            f"{config.name} reads patches of {patch} pixels, which {config.image_size} is no multiple of"
        )
    if resize:
        before, prefix = vit.patch_embed.grid_size, 0 if vit.no_embed_class else vit.num_prefix_tokens
        table = vit.pos_embed[:, prefix:]
        vit.set_input_size(img_size=(config.image_size, config.image_size))
        after = vit.patch_embed.grid_size
        if after != before:
            with torch.no_grad():
                vit.pos_embed[:, prefix:] = resize_positions(table, before, after, "reference")
    return vit


def resize_positions(
    table: Float[Tensor, "1 n d"],
    before: tuple[int, int],
    after: tuple[int, int],
    rule: Literal["timm", "reference"],
) -> Float[Tensor, "1 m d"]:
    """A position table of `before` rows and columns of patches at `after`, bicubic, in float32.

    "reference" is what the published code does, and DINO, iBOT and DINOv2 without registers: no antialiasing,
    source steps of G / (g + 0.1) from G to g patches. "timm", as DINOv2's own code for models with registers,
    antialiases and steps by G / g: other features. A table that fits already stays as it is.
    """
    if after == before:
        return table
    picture = table.float().unflatten(1, before).permute(0, 3, 1, 2)
    if rule == "reference":
        factor = [(new + 0.1) / old for new, old in zip(after, before, strict=True)]
        picture = F.interpolate(picture, scale_factor=factor, mode="bicubic", align_corners=False)
    else:
        picture = F.interpolate(picture, size=after, mode="bicubic", antialias=True, align_corners=False)
    return picture.permute(0, 2, 3, 1).flatten(1, 2)

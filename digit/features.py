"""pixels -> features: patch tokens of an inner block of a frozen self-supervised ViT (DiGIT, section 3.2)."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from digit.calls import check_fields, checked
from digit.errors import DigitError
from digit.nn.backbone import Standardize, as_floats, create, timm
from digit.nn.batch import in_pieces
from digit.nn.summary import in_a_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderConfig:
    """A ViT, the size at which it sees a picture, and the block whose output is read."""

    name: str  # timm's name of the ViT
    image_size: int  # side in pixels at which the ViT sees a picture
    block: int = -3  # whose output is read, negative from the end: -3 of 12 is block index 9
    norm: bool = True  # apply the ViT's final norm to that output
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of red, green, blue in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # of red, green, blue in [0, 1]
    arguments: dict[str, Any] = field(default_factory=dict)  # timm's, such as patch_size, embed_dim, depth
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
_MOST = 256  # patches along a side: 65,536 codes of a picture, a hundred times what a prior reads


@checked
def encoder_config(name: str, image_size: int | None = None, **settings: Any) -> EncoderConfig:
    """The settings of an encoder by its short name, or of any ViT by timm's name.

    Short names are dinov2-s, -b, -l and each with -reg, dinov3-s, -b, -l, ibot-b, mocov3-b, mae-b: 224 pixels
    unless `image_size` says otherwise. Other names take size, mean and std from timm. `settings` are further
    fields of EncoderConfig.

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
    known = timm().models.get_pretrained_cfg(name)
    if known is None:
        if image_size is None:
            raise DigitError(
                f"timm knows no size for the encoder {name!r}: check the name or give the size in pixels"
            )
        return EncoderConfig(name, image_size, **settings)
    taken = {"mean": tuple(known.mean), "std": tuple(known.std)}
    return EncoderConfig(name, image_size or known.input_size[-1], **{**taken, **settings})


class Encoder(nn.Module):
    """A frozen ViT, cut after the block that is read: later blocks neither run nor are stored.

    Args:
        config: the ViT and what is read from it.
        weights: a local safetensors file of the whole ViT, in timm's or DINOv2's key names; random if none.
        pretrained: with no file, let timm fetch its published weights.

    Raises:
        DigitError: no plain ViT, a block it does not have, a size its patches do not divide, bad weights.
    """

    @checked
    def __init__(
        self, config: EncoderConfig, weights: Path | None = None, *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.vit: Any = _build(config, weights, pretrained=pretrained)
        # Licence and place on the hub of weights that timm fetched, for whoever passes them on.
        self.origin = published(config.name) if pretrained and weights is None else {}
        depth = len(self.vit.blocks)
        if not -depth <= config.block < depth:
            raise DigitError(
                f"{config.name} has {depth} blocks, none numbered {config.block}: choose one from -{depth}"
            )
        if config.norm and isinstance(self.vit.norm, nn.Identity):
            raise DigitError(f"{config.name} has no final norm: set norm to false, or choose another encoder")
        self.vit.prune_intermediate_layers(
            [config.block % depth], prune_norm=not config.norm, prune_head=True
        )
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
        return self.vit.patch_embed.grid_size[0]

    @property
    def tokens(self) -> int:
        """Feature vectors of a picture, in raster order."""
        return self.grid**2

    @property
    def width(self) -> int:
        """Channels of a feature vector."""
        return self.vit.embed_dim

    @property
    def flops(self) -> int:
        """Floating-point operations for a picture, of the blocks' matrices and of attention."""
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
    """What timm says of the weights that it fetches for a ViT: their licence, their place on the hub."""
    known = timm().models.get_pretrained_cfg(name)
    told = {"licence": getattr(known, "license", None), "base_model": getattr(known, "hf_hub_id", None)}
    return {entry: str(value) for entry, value in told.items() if value}


def in_half(encoder: Encoder, pixels: Shaped[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
    """Features under float16 autocast, eight times as precise as bfloat16, which takes what overflows it."""
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast(pixels.device.type, dtype):
            features = encoder(pixels)
        if features.isfinite().all():
            break
    return features


def _build(config: EncoderConfig, weights: Path | None, *, pretrained: bool) -> nn.Module:
    """The whole ViT at the wanted size, with its weights."""
    if pretrained and weights is None and not config.hosted:
        raise DigitError(
            f"the weights of this encoder ({config.name}) are not hosted by timm: pass --encoder-weights FILE"
        )
    architecture = config.name.split(".")[0]
    rotary = "_dinov3" in architecture
    # Under the reference's rule the positions are loaded at the ViT's own size and resized here, not by timm.
    resize = config.position_rule == "reference" and (pretrained or weights is not None) and not rotary
    size: dict[str, Any] = {} if resize else {"img_size": config.image_size}
    if rotary:
        size["dynamic_img_size"] = False  # positions are computed once, not at every call
    elif timm().is_model(architecture) and not timm().models.is_model_in_modules(
        architecture, ["vision_transformer"]
    ):
        raise DigitError(
            f"{config.name} is not a plain ViT: choose dinov2-b, dinov3-b or another vit_* name of timm"
        )
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

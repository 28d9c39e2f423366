"""ViT weights of DINOv2, iBOT, MoCo v3 and MAE, as their authors published them -> an Encoder.

Sizes are measured on the tensors and given to timm as the name of a network with arguments.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig, resize_positions
from digit.printing import listed
from digit.progress import say
from digit.tensors import check_finite
from digit.weights.foreign import Layout, check_layout, without_prefix
from digit.weights.transformers_vit import as_published

PositionRule = Literal["official", "reference"]
# Where a checkpoint may keep the network; running means before the weights that they are of.
_MEANS = ("model_ema", "state_dict_ema", "ema")
PLACES = ("teacher", *_MEANS, "state_dict", "model")
# A ViT's own names may follow those of what it was wrapped in; a teacher is read before its student.
_MARK = re.compile(
    r"((?:(?:_orig_mod|module|model|encoder|teacher|backbone|base_encoder|net)\.)*)"
    r"(?:patch_embed\.proj\.weight|blocks\.0\.attn\.qkv\.weight)"
)

# What each family's files hold beside the ViT, by the start of the name: training heads, other networks.
_DROPPED = {
    "dinov2": (),
    "ibot": ("head.", "module.head.", "masked_embed"),
    "mocov3": ("head.", "module.momentum_encoder.", "module.predictor."),
    "mae": ("decoder_", "mask_token"),
    "copy": ("head.", "mask_token"),  # bare names, as in DiGIT's checkpoints: of iBOT, MoCo v3 or MAE
}


@dataclasses.dataclass(frozen=True)
class VitSizes:
    """What a ViT's file tells of its shape; the number of heads is in no file."""

    width: int  # channels of a token
    depth: int  # blocks
    hidden: int  # channels inside an MLP
    patch: int = 14  # side in pixels
    positions: int = 1370  # rows of the position table, that of the class token included
    registers: int = 0
    scaled: bool = True  # LayerScale
    gated: bool = False  # SwiGLU
    mask_token: bool = True  # for training only

    @property
    def fan(self) -> int:
        """Rows of the first matrix of an MLP: a gated one makes the gate and what it lets through at once."""
        return self.hidden * (2 if self.gated else 1)


def is_vit(content: Any) -> bool:
    """Whether what `digit.weights.foreign.read` gave holds a ViT under one of the names known here."""
    return _find(content) is not None


@torch.no_grad()
def convert_vit(
    content: Any,
    *,
    where: str,
    block: int = -3,
    norm: bool = True,
    image_size: int = 224,
    position_rule: PositionRule = "official",
    heads: int | None = None,
) -> Encoder:
    """The encoder of a file of DINOv2 (also with registers), iBOT, MoCo v3 or MAE, or of a copy in DiGIT's.

    Every size is read from the tensors. Only the number of heads is in no file: 64 channels each, but for the
    ViT-S of MoCo v3 (12 heads) and every ViT-H (16).

    Args:
        content: what `digit.weights.foreign.read` gave, or a ViT's tensors by name.
        where: the file, for messages.
        block: whose output is read, negative from the end.
        norm: apply the final norm to it.
        image_size: side in pixels at which the encoder sees a picture.
        position_rule: how positions are resized to `image_size`. "reference" is what DiGIT's authors ran for
            every model: bicubic, source steps of G / (g + 0.1). "official" is what the encoder's own authors
            run: the same for iBOT and DINOv2, but antialiased with steps of G / g for DINOv2 with registers;
            MAE and MoCo v3 have no rule for other sizes than their 224 pixels and get the antialiased one.
        heads: of attention.

    Raises:
        DigitError: no such ViT; tensors missing, unknown, misshapen (the first are named), not finite;
            a number of heads that is unknown or does not divide the width; an impossible block or size.
    """
    family, tensors = read_vit(content, where=where)
    sizes = measure(tensors)
    name, arguments = timm_name(sizes, _heads(sizes, family, heads, where))
    positions = tensors["pos_embed"].float()
    # Fixed tables of sines, those of MAE and MoCo v3, have zeros for the class token.
    official = "timm" if sizes.registers or not positions[:, 0].any() else "reference"
    config = EncoderConfig(
        name,
        image_size,
        block=block,
        norm=norm,
        arguments=arguments,
        hosted=False,
        position_rule="reference" if position_rule == "reference" else official,
    )
    with torch.random.fork_rng([]):  # building draws random weights, which are thrown away
        encoder = Encoder(config)
    before, after = math.isqrt(positions.shape[1] - 1), encoder.grid
    table = resize_positions(positions[:, 1:], (before, before), (after, after), config.position_rule)
    tensors |= {"pos_embed": torch.cat([positions[:, :1], table], 1)}
    if sizes.registers:  # timm's ViT with registers has no position for the class token: it joins the token
        tensors |= {
            "pos_embed": table,
            "cls_token": tensors["cls_token"].float() + positions[:, :1],
            "reg_token": tensors["register_tokens"],
        }
    if sizes.gated:
        tensors |= {
            name.replace("w12", "fc1").replace("w3", "fc2"): value
            for name, value in tensors.items()
            if ".mlp." in name
        }
    # The pruned ViT has no later blocks and, if it is not applied, no final norm.
    encoder.vit.load_state_dict({name: tensors[name] for name in encoder.vit.state_dict()})
    return encoder


def read_vit(content: Any, *, where: str) -> tuple[str, dict[str, Tensor]]:
    """The family of a ViT and its tensors by their bare names, each of them checked.

    Raises:
        DigitError: no ViT; tensors missing, unknown, misshapen (the first are named) or not finite.
    """
    found = _find(content)
    if found is None:
        raise DigitError(
            f"{where} holds no ViT of DINOv2, iBOT, MoCo v3 or MAE: check that it is the right file"
        )
    place, family, prefix, given = found
    if place in _MEANS and isinstance(content.get("model"), Mapping):
        say(f"{where}: the running mean of the weights ({place}) is read, not the weights of the last step")
    kept = {name: value for name, value in given.items() if not _is_dropped(name, family, prefix)}
    return family, _checked(kept, prefix, where)


def _find(content: Any) -> tuple[str | None, str, str, Mapping[str, Any]] | None:
    """Where `content` holds a ViT, of which family, how its tensors' names begin, and that part of it."""
    if not isinstance(content, Mapping):
        return None
    for place in (*PLACES, None):
        part = content.get(place) if place else content
        if not isinstance(part, Mapping):
            continue
        part = as_published(part) or part
        found = {match[1] for name in part if isinstance(name, str) and (match := _MARK.fullmatch(name))}
        if found:
            prefix = min(found, key=lambda prefix: ("teacher." not in prefix, len(prefix), prefix))
            return place, _family(place, prefix, [str(name) for name in part]), prefix, part
    return None


def _family(place: str | None, prefix: str, names: list[str]) -> str:
    if prefix.endswith("base_encoder."):
        return "mocov3"
    if any(name.endswith((".ls1.gamma", ".mlp.w12.weight", "register_tokens")) for name in names):
        return "dinov2"
    if place in ("model", "model_ema") or any(name.startswith(f"{prefix}decoder_") for name in names):
        return "mae"
    return "ibot" if place in ("teacher", "state_dict") or "backbone" in prefix else "copy"


def _is_dropped(name: Any, family: str, prefix: str) -> bool:
    return isinstance(name, str) and (
        name.startswith(_DROPPED[family]) or name.removeprefix(prefix).startswith(_DROPPED[family])
    )


def _checked(kept: dict[Any, Any], prefix: str, where: str) -> dict[str, Tensor]:
    """The tensors without `prefix`: all there, of shapes that fit each other, finite, of a square grid."""
    tensors = without_prefix(check_plain(kept, where), prefix)
    layout = vit_layout(**dataclasses.asdict(measure(tensors)))
    check_layout(kept, {prefix + name: shape for name, shape in layout.items()}, where=where)
    check_finite(kept, where)
    rows = tensors["pos_embed"].shape[1] - 1
    if rows < 1 or math.isqrt(rows) ** 2 != rows or not all(value.numel() for value in tensors.values()):
        raise DigitError(
            f"{where} has positions for {rows} patches, which make no square, or empty tensors: give another "
            "file"
        )
    return tensors


def check_plain(kept: dict[Any, Any], where: str) -> dict[str, Tensor]:
    """The entries as they are; DigitError that lists those that are no tensors of floats under a name."""
    if strange := [str(name) for name, value in kept.items() if not _is_plain(name, value)]:
        raise DigitError(
            f"{where} has entries beside the ViT's weights that are no arrays of floats: "
            f"{listed(strange)}; give the file as it was published"
        )
    return kept


def _is_plain(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and type(value) in (Tensor, torch.nn.Parameter)
        and value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        and value.layout == torch.strided
        and not value.is_meta
    )


def _heads(sizes: VitSizes, family: str, given: int | None, where: str) -> int:
    width = sizes.width
    usual = {1280: 16} | ({384: 12} if family == "mocov3" else {})
    heads = given if given is not None else usual.get(width, width // 64 if width % 64 == 0 else None)
    if heads is None:
        raise DigitError(
            f"{where} does not say how many heads its {width} channels are split into: pass --encoder-heads"
        )
    if heads < 1 or width % heads:
        raise DigitError(f"--encoder-heads {heads} does not divide the {width} channels of {where}")
    return heads


def measure(tensors: Mapping[str, Tensor]) -> VitSizes:
    """The sizes that a ViT's tensors have, by the authors' names; a guess where tensors are missing."""

    def size(name: str, axis: int, otherwise: int = 1) -> int:
        return tensors[name].shape[axis] if name in tensors and tensors[name].ndim > axis else otherwise

    gated = any(name.endswith(".mlp.w12.weight") for name in tensors)
    return VitSizes(
        width=size("patch_embed.proj.weight", 0, size("norm.weight", 0)),
        depth=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        hidden=size("blocks.0.mlp.w3.weight", 1) if gated else size("blocks.0.mlp.fc1.weight", 0),
        patch=size("patch_embed.proj.weight", 3),
        positions=size("pos_embed", 1),
        registers=size("register_tokens", 1, 0),
        scaled=any(name.endswith(".ls1.gamma") for name in tensors),
        gated=gated,
        mask_token="mask_token" in tensors,
    )


def vit_layout(
    width: int,
    depth: int,
    *,
    hidden: int | None = None,
    patch: int = 14,
    positions: int = 1370,
    registers: int = 0,
    scaled: bool = True,
    gated: bool = False,
    mask_token: bool = True,
) -> Layout:
    """The names and shapes of a ViT's tensors in its authors' files; for the arguments see `VitSizes`.

    `hidden` is 4 x width if left out. Source: the files of DINOv2, iBOT, MoCo v3 and MAE, which share these
    names.
    """
    hidden = hidden or 4 * width
    layout: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if registers:
        layout["register_tokens"] = (1, registers, width)
    if mask_token:
        layout["mask_token"] = (1, width)
    enter, leave = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    matrices = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        enter: (2 * hidden if gated else hidden, width),
        leave: (width, hidden),
    }
    for block in (f"blocks.{i}" for i in range(depth)):
        for name in ("norm1", "norm2"):
            layout |= {f"{block}.{name}.weight": (width,), f"{block}.{name}.bias": (width,)}
        for name, shape in matrices.items():
            layout |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        if scaled:
            layout |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
    return layout


# timm's names with sizes and heads. A ViT of other sizes gets the first name that is built alike.
_DINOV2 = {
    "base": (VitSizes(768, 12, 3072), 12),
    "small": (VitSizes(384, 12, 1536), 6),
    "large": (VitSizes(1024, 24, 4096), 16),
    "giant": (VitSizes(1536, 40, 4096, gated=True), 24),
}
_NAMES = {
    "vit_base_patch16_224": (VitSizes(768, 12, 3072, patch=16, scaled=False), 12),
    "vit_small_patch16_224": (VitSizes(384, 12, 1536, patch=16, scaled=False), 6),
    "vit_large_patch16_224": (VitSizes(1024, 24, 4096, patch=16, scaled=False), 16),
    "vit_huge_patch14_224": (VitSizes(1280, 32, 5120, scaled=False), 16),
    **{f"vit_{size}_patch14_dinov2": known for size, known in _DINOV2.items()},
    **{
        f"vit_{size}_patch14_reg4_dinov2": (dataclasses.replace(sizes, registers=4), heads)
        for size, (sizes, heads) in _DINOV2.items()
    },
}


def timm_name(sizes: VitSizes, heads: int) -> tuple[str, dict[str, Any]]:
    """timm's name of a ViT, and the arguments that make it what the name alone is not."""
    mine = dataclasses.replace(sizes, positions=1370, mask_token=True)  # neither is part of a name

    def distance(name: str) -> tuple[bool, bool, bool, bool]:
        known, its_heads = _NAMES[name]
        return (
            known.gated != mine.gated,
            (known.registers > 0) != (mine.registers > 0),
            known.scaled != mine.scaled,
            (known, its_heads) != (mine, heads),
        )

    name = min(_NAMES, key=distance)  # the first of equals
    known, its_heads = _NAMES[name]
    pairs = {
        "patch_size": (mine.patch, known.patch),
        "embed_dim": (mine.width, known.width),
        "depth": (mine.depth, known.depth),
        "num_heads": (heads, its_heads),
        "reg_tokens": (mine.registers, known.registers),
        "init_values": (1e-5 * mine.scaled, 1e-5 * known.scaled),  # timm scales unless this is 0
    }
    arguments: dict[str, Any] = {argument: own for argument, (own, its) in pairs.items() if own != its}
    if mine.fan * known.width != known.fan * mine.width:
        arguments["mlp_ratio"] = (mine.fan + 0.5) / mine.width  # timm rounds down what it multiplies back
    return name, arguments

"""The sizes of a ViT: measured on the tensors of a file, as a layout of names and shapes, as timm's name."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from digit.weights.layout import Layout


@dataclass(frozen=True)
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

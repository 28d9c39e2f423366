"""ViT weights of DINOv2, iBOT, MoCo v3 and MAE, as their authors published them -> an Encoder."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig, resize_positions
from digit.weights.layout import check_layout, without_prefix
from digit.weights.vit_sizes import VitSizes, measure, timm_name, vit_layout

_PLACES = ("teacher", "state_dict", "model")  # where a checkpoint may keep the network
_PREFIXES = ("", "module.base_encoder.", "backbone.", "module.backbone.", "module.")
_MARKS = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight")

# What each family's files hold beside the ViT, by the start of the name: training heads, other networks.
_DROPPED = {
    "dinov2": (),
    "ibot": ("head.", "module.head.", "masked_embed"),
    "mocov3": ("head.", "module.momentum_encoder.", "module.predictor."),
    "mae": ("decoder_", "mask_token"),
    "copy": ("head.", "mask_token"),  # bare names, as in DiGIT's checkpoints: of iBOT, MoCo v3 or MAE
}


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
    position_rule: Literal["official", "reference"] = "official",
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
        DigitError: no such ViT; tensors missing, unknown or of a wrong shape (all are listed), not finite;
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
        DigitError: no ViT; tensors missing, unknown, of a wrong shape (all are listed) or not finite.
    """
    found = _find(content)
    if found is None:
        raise DigitError(
            f"{where} holds no ViT of DINOv2, iBOT, MoCo v3 or MAE: check that it is the right file"
        )
    family, prefix, given = found
    kept = {name: value for name, value in given.items() if not _is_dropped(name, family, prefix)}
    return family, _checked(kept, prefix, where)


def _find(content: Any) -> tuple[str, str, Mapping[str, Any]] | None:
    """The family of a ViT, the start of its names, and the part of `content` that holds it."""
    if not isinstance(content, Mapping):
        return None
    for place in (*_PLACES, None):
        part = content.get(place) if place else content
        if not isinstance(part, Mapping):
            continue
        for prefix in _PREFIXES:
            if any(prefix + mark in part for mark in _MARKS):
                return _family(place, prefix, [str(name) for name in part]), prefix, part
    return None


def _family(place: str | None, prefix: str, names: list[str]) -> str:
    if prefix == "module.base_encoder.":
        return "mocov3"
    if any(name.endswith((".ls1.gamma", ".mlp.w12.weight", "register_tokens")) for name in names):
        return "dinov2"
    if place == "model" or any(name.startswith(f"{prefix}decoder_") for name in names):
        return "mae"
    return "ibot" if place in ("teacher", "state_dict") or "backbone" in prefix else "copy"


def _is_dropped(name: Any, family: str, prefix: str) -> bool:
    return isinstance(name, str) and (
        name.startswith(_DROPPED[family]) or name.removeprefix(prefix).startswith(_DROPPED[family])
    )


def _checked(kept: dict[Any, Any], prefix: str, where: str) -> dict[str, Tensor]:
    """The tensors without `prefix`: all there, of shapes that fit each other, finite, of a square grid."""
    strange = [str(name) for name, value in kept.items() if not _is_plain(name, value)]
    if strange:
        raise DigitError(
            f"{where} has entries beside the ViT's weights that are no arrays of floats: "
            f"{', '.join(strange)}; give the file as it was published"
        )
    tensors = without_prefix(kept, prefix)
    layout = vit_layout(**dataclasses.asdict(measure(tensors)))
    check_layout(kept, {prefix + name: shape for name, shape in layout.items()}, where=where)
    if bad := [prefix + name for name, value in tensors.items() if not value.isfinite().all()]:
        raise DigitError(f"{where} holds values that are not finite, in {', '.join(bad)}: download it again")
    rows = tensors["pos_embed"].shape[1] - 1
    if rows < 1 or math.isqrt(rows) ** 2 != rows or not all(value.numel() for value in tensors.values()):
        raise DigitError(
            f"{where} has positions for {rows} patches, which make no square, or empty tensors: give another "
            "file"
        )
    return tensors


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

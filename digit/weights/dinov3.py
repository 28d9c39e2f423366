"""ViT weights of DINOv3, as Meta, transformers and timm name them -> an Encoder.

The network is timm's: rotary positions of base 100, register tokens, LayerScale, no bias of keys. Sources of
the names: dinov3/models/vision_transformer.py, transformers' models/dinov3_vit, timm's models/eva.py.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from digit.errors import DigitError
from digit.features import Encoder, EncoderConfig
from digit.nn.backbone import DINOV3_LICENCE
from digit.progress import say
from digit.tensors import check_finite
from digit.weights.foreign import check_layout, without_prefix
from digit.weights.outline import outline
from digit.weights.vit import PLACES, check_plain

# How Meta's and transformers' names become timm's, one rule after another.
_RENAMES = (
    (r"^embeddings\.", ""),
    (r"^patch_embeddings\.", "patch_embed.proj."),
    (r"^(storage|register)_tokens$", "reg_token"),
    (r"^(model\.)?layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.(ls|layer_scale)([12])\.(gamma|lambda1)$", r".gamma_\2"),
    (r"\.mlp\.(w1|gate_proj)\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.(w3|down_proj)\.", ".mlp.fc2."),
    (r"\.attn\.([qv])_proj\.bias$", r".attn.\1_bias"),
)
_UNUSED = re.compile(r"mask_token|local_cls_norm\.\w+|.*\.bias_mask|rope_embed\.periods")  # in training only
_BEGIN = re.compile(r"((?:\w+\.)*?)(?:patch_embed\.proj|embeddings\.patch_embeddings)\.weight")
# By timm's size and whether the MLP is gated: channels, blocks, heads; 64 channels a head in each.
_SIZES = {
    ("small", False): (384, 12, 6),
    ("base", False): (768, 12, 12),
    ("large", False): (1024, 24, 16),
    ("small_plus", True): (384, 12, 6),
    ("huge_plus", True): (1280, 32, 20),
}


def is_dinov3(content: Any) -> bool:
    """Whether what `digit.weights.foreign.read` gave holds a ViT of DINOv3 under one of its three names."""
    return _find(content) is not None


@torch.no_grad()
def convert_dinov3(
    content: Any,
    *,
    where: str,
    block: int = -3,
    norm: bool = True,
    image_size: int = 224,
    heads: int | None = None,
) -> Encoder:
    """The encoder of a file of DINOv3: arguments as of `digit.weights.vit.convert_vit`.

    Raises:
        DigitError: tensors missing, unknown, misshapen (the first are named), not finite; a number of
            heads that does not divide the width; positions of another base; an impossible block or size.
    """
    found = _find(content)
    assert found is not None
    tensors = _timms(check_plain(found, where))
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    heads = heads or max(width // 64, 1)
    if width % (4 * heads):
        raise DigitError(f"--encoder-heads {heads} gives no multiple of 4 of the {width} channels of {where}")
    periods = 100 ** (torch.arange(width // heads // 4) * 4 * heads / width)
    given = next((value for name, value in found.items() if name.endswith("rope_embed.periods")), periods)
    # The published files hold them in bfloat16; transformers and timm compute them anew, as is done here.
    if given.shape != periods.shape or not torch.allclose(given.float(), periods, rtol=2**-8, atol=0):
        raise DigitError(f"{where} has rotary positions of another base than DINOv3's 100: give Meta's file")
    name, arguments = _timm_name(tensors, width, patch, heads)
    config = EncoderConfig(name, image_size, block=block, norm=norm, arguments=arguments, hosted=False)
    whole = outline(Encoder, dataclasses.replace(config, block=-1, norm=True), where=where)
    check_layout(tensors, without_prefix(whole, "vit."), where=where)
    check_finite(tensors, where)
    with torch.random.fork_rng([]):  # building draws random weights, which are thrown away
        encoder = Encoder(config)
    encoder.vit.load_state_dict({key: tensors[key] for key in encoder.vit.state_dict()})
    say(f"{where}: {DINOV3_LICENCE}")
    return encoder


def _find(content: Any) -> dict[Any, Any] | None:
    """The tensors of a DINOv3 in `content`, by names without what it was wrapped in."""
    for place in (*PLACES, None):
        part = content.get(place) if place and isinstance(content, Mapping) else content
        if not isinstance(part, Mapping):
            continue
        names = {name for name in part if isinstance(name, str)}
        starts = {match[1] for name in names if (match := _BEGIN.fullmatch(name))}
        for prefix in sorted(starts, key=lambda start: ("teacher." not in start, len(start), start)):
            own = {prefix + name for name in ("storage_tokens", "embeddings.patch_embeddings.weight")}
            if own & names or {f"{prefix}reg_token", f"{prefix}blocks.0.gamma_1"} <= names:
                return {
                    name.removeprefix(prefix) if isinstance(name, str) else name: value
                    for name, value in part.items()
                }
    return None


def _timms(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by timm's names; unknown names stay, and so does what lacks a part."""
    gated = any(re.search(r"\.(w1|gate_proj|fc1_g)\.", name) for name in found)
    tensors: dict[str, Tensor] = {}
    for name, value in found.items():
        own = name
        for pattern, new in _RENAMES:
            own = re.sub(pattern, new, own)
        tensors[own.replace(".up_proj.", ".fc1_x." if gated else ".fc1.")] = value
    for name in list(tensors):
        if name.endswith(".attn.q_proj.weight"):
            parts = [name.replace("q_proj", f"{which}_proj") for which in "qkv"]
            if all(part in tensors for part in parts):
                joined = torch.cat([tensors.pop(part) for part in parts])
                tensors[name.replace("q_proj", "qkv")] = joined
        elif name.endswith(".attn.qkv.bias"):
            query, key, value = tensors[name].chunk(3)
            if f"{name}_mask" in tensors or not key.any():  # the mask takes out the bias of keys
                del tensors[name]
                tensors |= {name.replace("qkv.bias", "q_bias"): query}
                tensors |= {name.replace("qkv.bias", "v_bias"): value}
    return {name: value for name, value in tensors.items() if not _UNUSED.fullmatch(name)}


def _timm_name(
    tensors: Mapping[str, Tensor], width: int, patch: int, heads: int
) -> tuple[str, dict[str, Any]]:
    """timm's name of this ViT, and the arguments that make it what the name alone is not."""
    gated = "blocks.0.mlp.fc1_g.weight" in tensors
    last = tensors.get("blocks.0.mlp.fc2.weight")
    hidden = last.shape[-1] if last is not None else 4 * width
    alike = [(size, known) for (size, its), known in _SIZES.items() if its == gated]
    size, known = min(alike, key=lambda pair: pair[1][0] != width)
    pairs = {
        "patch_size": (patch, 16),
        "embed_dim": (width, known[0]),
        "depth": (len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}), known[1]),
        "num_heads": (heads, known[2]),
        "num_reg_tokens": (tensors["reg_token"].shape[1] if "reg_token" in tensors else 4, 4),
        "qkv_bias": ("blocks.0.attn.q_bias" in tensors, False),
        "swiglu_align_to": (8 if not gated or hidden % 8 == 0 else 1, 8),
    }
    arguments: dict[str, Any] = {argument: own for argument, (own, its) in pairs.items() if own != its}
    if hidden != 4 * width:
        arguments["mlp_ratio"] = (hidden + 0.5) / width  # timm rounds down what it multiplies back
    return f"vit_{size}_patch16_dinov3", arguments

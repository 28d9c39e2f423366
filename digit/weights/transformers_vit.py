"""DINOv2 under the names of Hugging Face's transformers -> under its authors' names.

Source: transformers, models/dinov2 and models/dinov2_with_registers, whose files hold the same numbers, but
queries, keys and values apart, which the authors keep in one matrix, in this order.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_BEGIN = "embeddings.patch_embeddings.projection.weight"
_NAMES = (
    (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
    (r"encoder\.layer\.(\d+)\.(norm[12]\.\w+)", r"blocks.\1.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.(mlp\.fc[12]\.\w+)", r"blocks.\1.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.(weight|bias)", r"blocks.\1.mlp.w12.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.(weight|bias)", r"blocks.\1.mlp.w3.\2"),
)
_PART = re.compile(r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)")


def as_published(content: Any) -> dict[str, Any] | None:
    """A file's tensors by the authors' names, None if it has not transformers' names; unknown names stay."""
    if not isinstance(content, Mapping):
        return None
    begin = next((name for name in content if isinstance(name, str) and name.endswith(_BEGIN)), None)
    if begin is None:
        return None
    prefix = begin.removesuffix(_BEGIN)
    parts: dict[str, dict[str, Any]] = {}
    found: dict[str, Any] = {}
    for name, value in content.items():
        bare = str(name).removeprefix(prefix)
        if part := _PART.fullmatch(bare):
            parts.setdefault(f"blocks.{part[1]}.attn.qkv.{part[3]}", {})[part[2]] = value
            continue
        for pattern, own in _NAMES:
            if re.fullmatch(pattern, bare):
                found[re.sub(pattern, own, bare)] = value
                break
        else:
            found[name] = value
    for name, three in parts.items():
        if len(three) == 3 and all(isinstance(value, Tensor) for value in three.values()):
            found[name] = torch.cat([three[which] for which in ("query", "key", "value")])
        # Else it is missing, and said to be so.
    return found

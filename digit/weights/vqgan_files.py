"""Others' VQGAN files -> VQGAN: MaskGIT's network as MAGE and DiGIT carry it, and taming-transformers'.

All numbers but the side of a picture are read from names and shapes. Tensors keep their names.
"""

from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import count
from typing import Any

import torch
from torch import Tensor

from digit.errors import DigitError
from digit.printing import listed
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig
from digit.weights.foreign import check_layout
from digit.weights.outline import Undrawn, outline

# Taming's network alone projects around the codebook and has biases in the blocks.
_TAMING = ("quant_conv.*", "post_quant_conv.*", "encoder.conv_in.bias", "*.block.*.conv?.bias")


def is_vqgan(content: Any) -> bool:
    """Whether what a file holds has the names of a VQGAN's tensors, flat or under `state_dict`."""
    tensors = _tensors(content)
    return all(
        any(name.startswith(part) for name in tensors) for part in ("encoder.down.0.", "decoder.up.0.")
    )


def convert_vqgan(content: Any, *, where: str, image_size: int = 256) -> VQGAN:
    """The VQGAN that `content`, read from the file `where`, describes: float32, on the CPU, in eval mode.

    `content` is a mapping of names to tensors, flat or under `state_dict`, of any floating type; the names
    are those of MAGE's VQGAN file or of a taming-transformers checkpoint, whose training-only `loss.*` are
    left out. `image_size` in pixels is the side of the pictures that `decode` gives; no file tells it.

    Raises:
        DigitError: tensors that are missing, unknown or of another shape, the first of them named; a Gumbel
            quantiser; an image size that is not a multiple of the downsampling.
    """
    tensors = _tensors(content)
    if any(name.startswith(("quantize.embed.", "quantize.proj.")) for name in tensors):
        raise DigitError(
            f"{where} is a VQGAN with a Gumbel quantiser (quantize.proj), which digit cannot run: take one "
            "whose codes are nearest vectors (quantize.embedding)"
        )
    config = _read_config(tensors, where=where, image_size=image_size)
    check_layout(tensors, outline(VQGAN, config, where=where), where=where)
    with torch.device("meta"), Undrawn():
        vqgan = VQGAN(config)
    whole = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if whole:
        raise DigitError(f"{where} holds whole numbers where weights should be: {listed(whole)}")
    # Copies: tensors of a file may share one storage, or lie in a file that is mapped into memory.
    copies = {
        name: tensor.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    vqgan.load_state_dict(copies, assign=True)
    return vqgan.eval()


def _tensors(content: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without those that only training needs."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        return {}
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor) and not name.startswith("loss.")
    }


def _read_config(tensors: Mapping[str, Tensor], *, where: str, image_size: int) -> VQGANConfig:
    """The settings that most tensors agree on, so that the few which do not can be named."""

    def some(*patterns: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in tensors for pattern in patterns)

    def number(*patterns: str) -> int:
        return next(i for i in count() if not some(*(pattern.format(i) for pattern in patterns)))

    def size(*places: tuple[str, int]) -> int:
        """The size at an axis that is most frequent among the tensors whose names fit."""
        sizes = Counter(
            tensor.shape[axis]
            for pattern, axis in places
            for name, tensor in tensors.items()
            if fnmatchcase(name, pattern) and tensor.ndim > axis and tensor.shape[axis] > 0
        )
        if not sizes:
            raise DigitError(f"{where} is not a whole VQGAN: it holds no {places[0][0]}")
        return sizes.most_common(1)[0][0]

    taming = some(*_TAMING)
    levels = range(number("encoder.down.{}.block.*", "decoder.up.{}.block.*"))
    if not levels:
        raise DigitError(f"{where} is not a whole VQGAN: it holds no encoder.down.0")
    width = size(
        ("encoder.conv_in.weight", 0),
        ("encoder.down.0.block.0.norm1.weight", 0),
        ("encoder.down.0.block.0.conv1.weight", 1),
    )
    widths = [
        size(*((f"{side}.{i}.block.*.norm2.weight", 0) for side in ("encoder.down", "decoder.up")))
        for i in levels
    ]
    uneven = [each for each in widths if each % width]
    if uneven:
        raise DigitError(
            f"{where} has a level of {uneven[0]} channels, which {width}, its first, do not divide"
        )
    inner = [("encoder.conv_out.weight", 0), ("decoder.conv_in.weight", 1)]
    outer = [("quantize.embedding.weight", 1)]
    if taming:
        inner += [("quant_conv.weight", 1), ("post_quant_conv.weight", 0)]
        outer += [("quant_conv.weight", 0), ("post_quant_conv.weight", 1)]
    else:
        outer += inner
    code_dim = size(*outer)
    latents = size(*inner) if taming else code_dim
    blocks, decoder_blocks = (number(f"{side}.*.block.{{}}.*") for side in ("encoder.down", "decoder.up"))
    return VQGANConfig(
        image_size=image_size,
        width=width,
        multipliers=tuple(each // width for each in widths),
        blocks=blocks,
        decoder_blocks=None if decoder_blocks == blocks else decoder_blocks,
        codes=size(("quantize.embedding.weight", 0)) if some("quantize.embedding.weight") else 1,
        code_dim=code_dim,
        attention=taming and some("*.mid.attn_1.*"),
        shortcut="input" if taming else "branch",
        family="taming" if taming else "maskgit",
        latent_channels=None if latents == code_dim else latents,
        attention_levels=tuple(
            i for i in levels if taming and some(f"encoder.down.{i}.attn.*", f"decoder.up.{i}.attn.*")
        ),
    )

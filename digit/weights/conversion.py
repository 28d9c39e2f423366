"""A published file -> a module of ours, and what it was trained with; its content says what it is."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from digit.errors import DigitError
from digit.nn.linear_probe import Probe
from digit.progress import say
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.weights.artifact import artifact_of, identity, load
from digit.weights.fairseq import convert_checkpoint, is_checkpoint, probed_prior
from digit.weights.fairseq_copies import (
    check_tokenizer,
    check_vqgan,
    encoder_width,
    has_tokenizer,
    has_vqgan,
    tokenizer_copy,
    vqgan_copy,
)
from digit.weights.foreign import read
from digit.weights.vit import convert_vit, is_vit
from digit.weights.vqgan_files import convert_vqgan, is_vqgan

Part = Literal["model", "prior", "tokenizer", "vqgan"]
PositionRule = Literal["official", "reference"]
Distance = Literal["exact", "stored", "half"]


def convert_file(
    file: Path,
    *,
    part: Part = "model",
    encoder: Path | None = None,
    tokenizer: Path | None = None,
    vqgan: Path | None = None,
    encoder_heads: int | None = None,
    block: int = -3,
    image_size: int | None = None,
    position_rule: PositionRule | None = None,
    distance: Distance | None = None,
) -> tuple[nn.Module, dict[str, str]]:
    """The module of a published file, and the ids of what it was trained with; options as of `digit convert`.

    Raises:
        DigitError: a file that none of the readers knows, or options that do not fit it.
        LineageError: `tokenizer` or `vqgan` is not what a checkpoint was trained with.
    """
    content, where = read(file), str(file)
    if is_checkpoint(content):
        return _from_checkpoint(content, where, part, tokenizer, vqgan, encoder_heads, distance)
    if part != "model":
        raise DigitError(
            f"{file} is no DiGIT checkpoint, the only kind that has a --part {part}: leave it out"
        )
    if isinstance(content, Tensor):
        how = (encoder, encoder_heads, block, image_size, position_rule, distance)
        return _tokenizer(content, where, *how), {}
    if is_vqgan(content):
        return convert_vqgan(content, where=where, image_size=image_size or 256), {}
    if is_vit(content):
        size, rule = image_size or 224, position_rule or "official"
        module = convert_vit(
            content, where=where, block=block, image_size=size, position_rule=rule, heads=encoder_heads
        )
        return module, {}
    raise DigitError(
        f"{file} is none of the files that digit knows: a DiGIT checkpoint, a km_*.npy table, a VQGAN, "
        "or a DINOv2, iBOT, MoCo v3 or MAE encoder"
    )


def _from_checkpoint(
    content: Any,
    where: str,
    part: Part,
    tokenizer: Path | None,
    vqgan: Path | None,
    encoder_heads: int | None,
    distance: Distance | None,
) -> tuple[nn.Module, dict[str, str]]:
    """A part of a DiGIT checkpoint, and the ids of what it was trained with."""
    if part == "tokenizer":
        how = {"encoder_heads": encoder_heads, "distance": distance or "stored"}
        return tokenizer_copy(content, where=where, **how), {}
    if part == "vqgan":
        return vqgan_copy(content, where=where), {}
    if part == "prior":
        module: nn.Module = probed_prior(content, where=where)
    else:
        module = convert_checkpoint(content, where=where)
    if isinstance(module, Probe):
        return module, {"prior": identity(probed_prior(content, where=where))}
    lineage = {}
    if tokenizer is not None:
        given: Any = load(tokenizer, kind="tokenizer")
        check_tokenizer(content, given, where=where, name=str(tokenizer))
        lineage["tokenizer"] = artifact_of(given)["id"]
    elif has_tokenizer(content):
        if encoder_heads or encoder_width(content) % 64 == 0:
            copy = tokenizer_copy(content, where=where, encoder_heads=encoder_heads)
            lineage["tokenizer"] = identity(copy)
        else:  # only the lineage needs it
            say(
                f"{where} does not say how many heads its encoder has, so the lineage names no tokenizer: "
                "give --encoder-heads to have it"
            )
    if vqgan is not None:
        given = load(vqgan, kind="vqgan")
        check_vqgan(content, given, where=where, name=str(vqgan))
        lineage["vqgan"] = artifact_of(given)["id"]
    elif has_vqgan(content):
        lineage["vqgan"] = identity(vqgan_copy(content, where=where))
    return module, lineage


def _tokenizer(
    centroids: Tensor,
    where: str,
    encoder: Path | None,
    heads: int | None,
    block: int,
    image_size: int | None,
    position_rule: PositionRule | None,
    distance: Distance | None,
) -> Tokenizer:
    """A table of centroids and the encoder whose features they are means of."""
    if encoder is None:
        raise DigitError(
            f"{where} is a table of centroids: give the encoder they belong to with --encoder FILE, such as "
            "dinov2_vitb14_reg4_pretrain.pth"
        )
    if centroids.ndim != 2 or not centroids.is_floating_point() or not torch.isfinite(centroids).all():
        raise DigitError(f"{where} is no table of centroids: it must be finite numbers, one row a code")
    if encoder.is_dir():
        network: Any = load(encoder, kind="encoder")
    else:
        network = convert_vit(
            read(encoder),
            where=str(encoder),
            block=block,
            image_size=image_size or 224,
            position_rule=position_rule or "reference",
            heads=heads,
        )
    if centroids.shape[1] != network.width:
        raise DigitError(
            f"{where} holds centroids of {centroids.shape[1]} channels, {encoder} gives features of "
            f"{network.width}: they do not belong together"
        )
    if distance == "stored":
        raise DigitError("a table of centroids stores no norms: --distance must be exact or half")
    config = TokenizerConfig(network.config, len(centroids), distance or "exact")
    return Tokenizer(config, encoder=network, centroids=centroids)

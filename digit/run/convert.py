"""`digit convert`: others' files -> artifacts; what a file is, is read from its content."""

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor, nn

from digit.data.imagenet import imagenet_ids
from digit.errors import DigitError
from digit.files import sha256_file
from digit.nn.linear_probe import Probe
from digit.prior import Prior
from digit.progress import say
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.weights.artifact import artifact_of, describe, identity, kind_of, load, save
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
from digit.weights.storage import StoredAs, lossless
from digit.weights.vit import convert_vit, is_vit
from digit.weights.vqgan_files import convert_vqgan, is_vqgan

PICTURES = 256  # side in pixels that the published tokenizers see before their encoder's own resize


def convert(
    file: Annotated[Path, tyro.conf.Positional],
    out: Path,
    *,
    part: Literal["model", "prior", "tokenizer", "vqgan"] = "model",
    encoder: Path | None = None,
    tokenizer: Path | None = None,
    vqgan: Path | None = None,
    encoder_heads: int | None = None,
    block: int = -3,
    image_size: int | None = None,
    position_rule: Literal["official", "reference"] | None = None,
    distance: Literal["exact", "stored", "half"] | None = None,
    stored_as: Literal["auto", "float32", "float16"] = "auto",
) -> dict[str, Any]:
    """Convert a published file to an artifact (config.json + model.safetensors) that every verb reads.

    What the file is, its sizes, heads and norms are read from its content, never from its name. Knows:
    DiGIT's fairseq checkpoints (prior, autoregressive and masked renderer, VQ-only prior, linear probe), its
    K-means tables km_*.npy (with --encoder), VQGANs of MAGE / MaskGIT and of taming-transformers, and the
    encoders DINOv2 (with and without registers), iBOT, MoCo v3 and MAE. Pickles are read without running
    anything in them. `digit convert official NAME` fetches and converts a whole published model.

    Args:
        file: the published file.
        out: folder of the new artifact.
        part: of a DiGIT checkpoint: its own model, the tokenizer or VQGAN copied in it, or a probe's prior.
        encoder: for km_*.npy: the encoder's published file, or an artifact of it.
        tokenizer: artifact that a DiGIT checkpoint belongs to; checked, and named in its lineage. If left
            out, the lineage names the checkpoint's own copy (--part tokenizer).
        vqgan: likewise, the VQGAN of a renderer or of a prior over VQ codes.
        encoder_heads: attention heads of an encoder whose width is no multiple of 64.
        block: whose output an encoder gives, from the end: -3 of 12 is the tenth block, as published.
        image_size: side in pixels: at which an encoder sees pictures (224 if left out), or of a VQGAN's
            pictures (256).
        position_rule: how an encoder's positions are resized: reference is what DiGIT's own code does
            (if left out, for its tokenizers), official what the encoder's authors do (for encoders).
        distance: of a tokenizer: exact in float32 (if left out), with the norms stored in a checkpoint (if
            left out, for --part tokenizer), or in half precision as the published training.
        stored_as: auto is float16 where no value changes by it, else float32.
    """
    if (out / "config.json").exists():
        raise DigitError(f"{out} already holds an artifact: choose another --out or delete it")
    content, where = read(file), str(file)
    lineage: dict[str, str] = {}
    if is_checkpoint(content):
        module, lineage = _from_checkpoint(content, where, part, tokenizer, vqgan, encoder_heads, distance)
    elif part != "model":
        raise DigitError(
            f"{file} is no DiGIT checkpoint, the only kind that has a --part {part}: leave it out"
        )
    elif isinstance(content, Tensor):
        module = _tokenizer(
            content, where, encoder, encoder_heads, block, image_size, position_rule, distance
        )
    elif is_vqgan(content):
        module = convert_vqgan(content, where=where, image_size=image_size or 256)
    elif is_vit(content):
        rule = position_rule or "official"
        module = convert_vit(
            content,
            where=where,
            block=block,
            image_size=image_size or 224,
            position_rule=rule,
            heads=encoder_heads,
        )
    else:
        raise DigitError(
            f"{file} is none of the files that digit knows: a DiGIT checkpoint, a km_*.npy table, a VQGAN, "
            "or a DINOv2, iBOT, MoCo v3 or MAE encoder"
        )
    stored: StoredAs = lossless(dict(module.named_parameters())) if stored_as == "auto" else stored_as
    extra: dict[str, Any] = {"converted_from": {"file": file.name, "sha256": sha256_file(file)}}
    if isinstance(module, Tokenizer):
        extra["size"] = PICTURES
    known = isinstance(module, Prior) and module.config.classes == 1000  # in the order of ImageNet's folders
    classes = imagenet_ids() if known else None
    id = save(module, out, lineage=lineage, classes=classes, extra=extra, stored_as=stored)
    return {
        "out": out,
        "kind": kind_of(module),
        "id": id,
        "lineage": lineage,
        "values": sum(tensor.numel() for tensor in module.state_dict().values()),
        "stored_as": stored,
        "config": describe(out)["config"],
    }


def _from_checkpoint(
    content: Any,
    where: str,
    part: str,
    tokenizer: Path | None,
    vqgan: Path | None,
    encoder_heads: int | None,
    distance: Any,
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
    position_rule: Any,
    distance: Any,
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

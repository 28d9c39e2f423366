"""A published file -> a module of ours, and what it was trained with; its content says what it is.

DiGIT's checkpoints carry the tokenizer and the VQGAN that they were trained with, rounded to float16 by their
training. The files these came from (km_*.npy, the encoder's and the VQGAN's own) are exact; `check_tokenizer`
and `check_vqgan` tell whether they are the ones a checkpoint was trained with.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from digit.errors import DigitError, LineageError
from digit.features import Encoder
from digit.nn.linear_probe import Probe
from digit.printing import readable
from digit.progress import say
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.vqgan import VQGAN
from digit.weights.artifact import artifact_of, identity, load
from digit.weights.dinov3 import convert_dinov3, is_dinov3
from digit.weights.fairseq import (
    ENCODER,
    VQGAN_COPY,
    convert_checkpoint,
    input_size,
    is_checkpoint,
    probed_prior,
    read_facts,
)  # fmt: skip
from digit.weights.foreign import check_layout, read, without_prefix
from digit.weights.vit import PositionRule, convert_vit, is_vit
from digit.weights.vqgan_files import convert_vqgan, is_vqgan

Part = Literal["model", "prior", "tokenizer", "vqgan"]
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
        if part == "tokenizer":
            return tokenizer_copy(
                content, where=where, encoder_heads=encoder_heads, distance=distance or "stored"
            ), {}
        if part == "vqgan":
            return vqgan_copy(content, where=where), {}
        return _trained(content, where, part, tokenizer, vqgan, encoder_heads)
    if part != "model":
        raise DigitError(
            f"{file} is no DiGIT checkpoint, the only kind that has a --part {part}: leave it out"
        )
    if is_vqgan(content):
        return convert_vqgan(content, where=where, image_size=image_size or 256), {}
    how: dict[str, Any] = {"block": block, "image_size": image_size or 224, "heads": encoder_heads}
    if is_dinov3(content):
        if position_rule is not None:
            raise DigitError(
                "--position-rule is not of DINOv3, which has no table of positions: leave it out"
            )
        return convert_dinov3(content, where=where, **how), {}
    if is_vit(content):
        return convert_vit(content, where=where, position_rule=position_rule or "official", **how), {}
    if not isinstance(content, Tensor):
        raise DigitError(
            f"{file} is none of the files that digit knows: a DiGIT checkpoint, a km_*.npy table, a VQGAN, "
            "or a DINOv2, DINOv3, iBOT, MoCo v3 or MAE encoder"
        )
    if encoder is None:
        raise DigitError(
            f"{where} is a table of centroids: give the encoder they belong to with --encoder FILE, such as "
            "dinov2_vitb14_reg4_pretrain.pth"
        )
    network = open_encoder(encoder, position_rule=position_rule or "reference", **how)
    return _tokenizer(content, where, encoder, network, distance), {}


def open_encoder(path: Path, *, position_rule: PositionRule, **how: Any) -> Encoder:
    """The encoder of an artifact's folder, or of a published file, which is converted as `how` says.

    The position rule is of those encoders that have a table of positions.
    """
    if path.is_dir():
        loaded: Any = load(path, kind="encoder")
        return loaded
    content = read(path)
    if is_dinov3(content):
        return convert_dinov3(content, where=str(path), **how)
    return convert_vit(content, where=str(path), position_rule=position_rule, **how)


def tokenizer_copy(
    content: Any, *, where: str, encoder_heads: int | None = None, distance: Distance = "stored"
) -> Tokenizer:
    """The tokenizer inside a checkpoint, with the reference's positions and the norms stored in the file.

    `encoder_heads` are the encoder's attention heads where its width is no multiple of 64. Raises DigitError
    for a checkpoint without one, or tensors that make none.
    """
    facts, state = read_facts(content, where=where), content["model"]
    if "centroids" not in state:
        raise DigitError(f"{where} holds no tokenizer: convert one of the files of a prior or a renderer")
    own = {name: state[name] for name in ("centroids", "centroid_norm") if name in state}
    layout = {"centroids": (facts.features, facts.codes), "centroid_norm": (1, facts.codes)}
    check_layout(own, layout, where=where)
    settings = content["cfg"]["model"].get("pretrained_enc_config")
    layer = settings.get("layer", 3) if isinstance(settings, dict) else 3
    if not isinstance(layer, int):
        raise DigitError(
            f"{where} says that its encoder is read at {readable(layer, 80)}, no number of a block"
        )
    encoder = convert_vit(
        without_prefix(state, ENCODER),
        where=where,
        block=-layer,
        position_rule="reference",
        heads=encoder_heads,
    )
    centroids = state["centroids"].float().T
    config = TokenizerConfig(encoder.config, len(centroids), distance)
    tokenizer = Tokenizer(config, encoder=encoder, centroids=centroids)
    if tokenizer.squares is not None:
        tokenizer.squares.copy_(state["centroid_norm"].flatten())
    return tokenizer.eval()


def vqgan_copy(content: Any, *, where: str) -> VQGAN:
    """The VQGAN inside a checkpoint, at the size of its pictures; DigitError where there is none."""
    read_facts(content, where=where)
    copy = without_prefix(content["model"], VQGAN_COPY)
    if not copy:
        raise DigitError(f"{where} holds no VQGAN: convert the file of a renderer or of a VQ-only prior")
    return convert_vqgan(copy, where=where, image_size=input_size(content, where=where))


def check_tokenizer(content: Any, tokenizer: Tokenizer, *, where: str, name: str = "the tokenizer") -> None:
    """LineageError unless `tokenizer`, rounded to float16, is the copy in the checkpoint.

    Positions are left out, since those of both are resized copies: rounding does not commute with that.
    """
    if tokenizer.encoder.maps:
        raise LineageError(f"{where} was not trained with {name}, whose encoder is no ViT: leave it out")
    copy = tokenizer_copy(content, where=where, encoder_heads=tokenizer.encoder.vit.blocks[0].attn.num_heads)
    _check_same(tokenizer, copy, ("pos_embed", "cls_token", "squares"), where, name)


def check_vqgan(content: Any, vqgan: VQGAN, *, where: str, name: str = "the VQGAN") -> None:
    """LineageError unless `vqgan`, rounded to float16, is the copy in the checkpoint."""
    _check_same(vqgan, vqgan_copy(content, where=where), (), where, name)


def _check_same(given: nn.Module, copy: nn.Module, leave_out: tuple[str, ...], where: str, name: str) -> None:
    ours = given.state_dict()
    for key, value in copy.state_dict().items():
        mine = ours.get(key)
        if not key.endswith(leave_out) and (
            mine is None or mine.shape != value.shape or not torch.equal(mine.half(), value.half())
        ):
            raise LineageError(
                f"{where} was not trained with {name}: {key} is another one (a checkpoint carries a copy, in "
                "float16); give the one it was trained with, or leave it out to use the copy"
            )


def _trained(
    content: Any,
    where: str,
    part: Part,
    tokenizer: Path | None,
    vqgan: Path | None,
    encoder_heads: int | None,
) -> tuple[nn.Module, dict[str, str]]:
    """The model of a DiGIT checkpoint, or the prior in a probe's, and the ids of what it was trained with."""
    if part == "prior":
        module: nn.Module = probed_prior(content, where=where)
    else:
        module = convert_checkpoint(content, where=where)
    if isinstance(module, Probe):
        return module, {"prior": identity(probed_prior(content, where=where))}
    state, lineage = content["model"], {}
    if tokenizer is not None:
        given: Any = load(tokenizer, kind="tokenizer")
        check_tokenizer(content, given, where=where, name=str(tokenizer))
        lineage["tokenizer"] = artifact_of(given)["id"]
    elif "centroids" in state:
        if encoder_heads or len(state["centroids"]) % 64 == 0:
            lineage["tokenizer"] = identity(tokenizer_copy(content, where=where, encoder_heads=encoder_heads))
        else:  # only the lineage needs it
            say(
                f"{where} does not say how many heads its encoder has, so the lineage names no tokenizer: "
                "give --encoder-heads to have it"
            )
    if vqgan is not None:
        given = load(vqgan, kind="vqgan")
        check_vqgan(content, given, where=where, name=str(vqgan))
        lineage["vqgan"] = artifact_of(given)["id"]
    elif any(name.startswith(VQGAN_COPY) for name in state):
        lineage["vqgan"] = identity(vqgan_copy(content, where=where))
    return module, lineage


def _tokenizer(
    centroids: Tensor, where: str, path: Path, encoder: Encoder, distance: Distance | None
) -> Tokenizer:
    """A table of centroids and the encoder, read from `path`, whose features they are means of."""
    if centroids.ndim != 2 or not centroids.is_floating_point() or not torch.isfinite(centroids).all():
        raise DigitError(f"{where} is no table of centroids: it must be finite numbers, one row per code")
    if centroids.shape[1] != encoder.width:
        raise DigitError(
            f"{where} holds centroids of {centroids.shape[1]} channels, {path} gives features of "
            f"{encoder.width}: they do not belong together"
        )
    if distance == "stored":
        raise DigitError("a table of centroids stores no norms: --distance must be exact or half")
    config = TokenizerConfig(encoder.config, len(centroids), distance or "exact")
    return Tokenizer(config, encoder=encoder, centroids=centroids)

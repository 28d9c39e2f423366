"""The tokenizer and the VQGAN that DiGIT's checkpoints carry along, rounded to float16 by its training.

Both are frozen in training, so every checkpoint of one tokenizer holds the same values. The files they came
from (km_*.npy, the encoder's and the VQGAN's own) are exact; `check_tokenizer` and `check_vqgan` tell whether
they are the ones a checkpoint was trained with.
"""

from typing import Any, Literal

import torch
from torch import nn

from digit.errors import DigitError, LineageError
from digit.tokenizer import Tokenizer, TokenizerConfig
from digit.vqgan import VQGAN
from digit.weights.fairseq import ENCODER, VQGAN_COPY
from digit.weights.foreign import without_prefix
from digit.weights.vit import convert_vit
from digit.weights.vqgan_files import convert_vqgan


def has_tokenizer(content: Any) -> bool:
    """Whether a checkpoint carries a tokenizer: all but those over VQ codes only."""
    return "centroids" in content["model"]


def has_vqgan(content: Any) -> bool:
    """Whether a checkpoint carries a VQGAN: those that read or predict VQ codes."""
    return any(name.startswith(VQGAN_COPY) for name in content["model"])


def encoder_width(content: Any) -> int:
    """Channels of the features that a checkpoint's encoder gives."""
    return len(content["model"]["centroids"])


def tokenizer_copy(
    content: Any,
    *,
    where: str,
    encoder_heads: int | None = None,
    distance: Literal["exact", "stored", "half"] = "stored",
) -> Tokenizer:
    """The tokenizer inside a checkpoint, with the reference's positions and the norms stored in the file.

    `encoder_heads` are the encoder's attention heads where its width is no multiple of 64.

    Raises:
        DigitError: a checkpoint without one, or tensors that make none.
    """
    state = content["model"]
    if not has_tokenizer(content):
        raise DigitError(f"{where} holds no tokenizer: convert one of the files of a prior or a renderer")
    settings = content["cfg"]["model"].get("pretrained_enc_config") or {}
    encoder = convert_vit(
        without_prefix(state, ENCODER),
        where=where,
        block=-int(settings.get("layer", 3)),
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
    """The VQGAN inside a checkpoint, at the size of its pictures.

    Raises:
        DigitError: a checkpoint without one, or tensors that make none.
    """
    if not has_vqgan(content):
        raise DigitError(f"{where} holds no VQGAN: convert the file of a renderer or of a VQ-only prior")
    size = int(content["cfg"]["task"]["input_size"])
    return convert_vqgan(without_prefix(content["model"], VQGAN_COPY), where=where, image_size=size)


def check_tokenizer(content: Any, tokenizer: Tokenizer, *, where: str, name: str = "the tokenizer") -> None:
    """LineageError unless `tokenizer`, rounded to float16, is the copy in the checkpoint.

    Positions are left out, since those of both are resized copies: rounding does not commute with that.
    """
    copy = tokenizer_copy(content, where=where, encoder_heads=_heads(tokenizer))
    _same(tokenizer, copy, leave_out=("pos_embed", "cls_token", "squares"), where=where, name=name)


def check_vqgan(content: Any, vqgan: VQGAN, *, where: str, name: str = "the VQGAN") -> None:
    """LineageError unless `vqgan`, rounded to float16, is the copy in the checkpoint."""
    _same(vqgan, vqgan_copy(content, where=where), leave_out=(), where=where, name=name)


def _same(given: nn.Module, copy: nn.Module, *, leave_out: tuple[str, ...], where: str, name: str) -> None:
    theirs, ours = copy.state_dict(), given.state_dict()
    for key, value in theirs.items():
        if key.endswith(leave_out):
            continue
        mine = ours.get(key)
        if mine is None or mine.shape != value.shape or not torch.equal(mine.half(), value.half()):
            raise LineageError(
                f"{where} was not trained with {name}: {key} is another one (a checkpoint carries a copy, in "
                "float16); give the one it was trained with, or leave it out to use the copy"
            )


def _heads(tokenizer: Tokenizer) -> int:
    return tokenizer.encoder.vit.blocks[0].attn.num_heads

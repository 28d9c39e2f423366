"""Artifacts of tokenizers and VQGANs -> the kinds of codes that `digit tokenize` writes by them."""

from pathlib import Path
from typing import Any

import torch

from digit import tokenizer as discriminative
from digit import vqgan as vq
from digit.data.write_codes import Stream
from digit.progress import say
from digit.weights.artifact import artifact_of, load


def open_streams(
    tokenizer: Path | None, vqgan: Path | None, *, size: int | None, device: torch.device
) -> tuple[dict[str, Stream], dict[str, int], int]:
    """By the name of the array: what is written, and codes per picture; and the pictures' side in pixels.

    `size` is the side asked for; the VQGAN's, or what the tokenizer was fitted on, if left out. Raises
    DigitError for a folder that is no such artifact.
    """
    streams: dict[str, Stream] = {}
    lengths: dict[str, int] = {}
    fitted = None
    if tokenizer is not None:
        module: Any = load(tokenizer, kind="tokenizer", device=device)
        artifact = artifact_of(module)
        streams["codes"] = Stream(discriminative.encoding(module), module.config.codes, artifact["id"])
        lengths["codes"] = module.length
        fitted = artifact["extra"].get("size", module.config.encoder.image_size)
    if vqgan is not None:
        module = load(vqgan, kind="vqgan", device=device)
        streams["vq_codes"] = Stream(vq.encoding(module), module.config.codes, artifact_of(module)["id"])
        lengths["vq_codes"], size = module.length, size or module.config.image_size
    side = size or fitted
    assert side is not None, "one of the two artifacts is there"
    if fitted not in (None, side):
        say(f"the tokenizer was fitted on pictures of {fitted} px, these are read at {side} px")
    return streams, lengths, side

"""A code -> the patches that are the nearest to it, among pictures that the page has drawn."""

import time
from collections import deque
from collections.abc import Iterator

import torch
from jaxtyping import UInt8
from torch import Tensor

from digit.errors import DigitError
from digit.evaluation.codebook import nearest_patches
from digit.pipeline import DigitPipeline

COLUMNS = 12  # patches shown of a code
_POOL, _BYTES = 256, 64 * 2**20  # pictures that are kept, and their bytes, at most
_ENOUGH, _SECONDS, _PART = 64, 10.0, 8  # pictures to look in, the time to draw them, and how many at once
_SEED = 2**32  # of these, which visitors have hardly drawn


class Pool:
    """The newest pictures that the page has drawn; no upload is among them, since all visitors see these."""

    def __init__(self, pipeline: DigitPipeline) -> None:
        """Empty, for pictures of this model."""
        room = _BYTES // (3 * pipeline.image_size**2)
        self.pipeline = pipeline
        self.pictures: deque[UInt8[Tensor, "3 h w"]] = deque(maxlen=max(1, min(_POOL, room)))

    def fill(self) -> Iterator[str]:
        """Draw until there are 64, for ten seconds at most, and say so."""
        begun, most = time.monotonic(), min(_ENOUGH, self.pictures.maxlen or 0)
        while (first := len(self.pictures)) < most and time.monotonic() - begun < _SECONDS:
            yield f"drawing pictures to look for patches in: {first} of {most}"
            seeds = range(_SEED + first, _SEED + min(first + _PART, most))
            self.pictures.extend(self.pipeline(seeds=seeds).pixels)

    def patches(self, code: int, own: UInt8[Tensor, "3 h w"]) -> tuple[UInt8[Tensor, "n 3 s s"], str]:
        """The nearest patches of a code, each of another picture, and where they are from.

        `own` is the visitor's picture. DigitError where the model has no tokenizer.
        """
        if (tokenizer := self.pipeline.tokenizer) is None:
            raise DigitError("this model has no tokenizer, which knows what its codes stand for")
        others = [picture for picture in self.pictures if not torch.equal(picture, own)]
        batches = (part.float() / 255 for part in torch.stack([own, *others]).split(64))
        found = nearest_patches(tokenizer, batches, codes=[code], columns=COLUMNS, size=96)
        many = int((found.all_codes == code).any(dim=1).sum())
        where = f"{len(others) + 1} pictures, yours and {len(others)} that this page drew"
        return found.patches[0, :many], f"code {code} is in {many} of {where}; its nearest patches:"

"""What stages train on: a batch of pictures, or of a tokenised data set."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class PixelBatch(NamedTuple):
    """Pictures with their labels, on one device."""

    pixels: Float[Tensor, "b 3 h w"]  # in [0, 1]
    labels: Int[Tensor, " b"] | None


class CodeBatch(NamedTuple):
    """Codes of b images with what goes with them; all on one device, int64, without offsets."""

    codes: Int[Tensor, "b n"]  # the prior's codes; VQ codes if the prior is the baseline over VQ codes
    labels: Int[Tensor, " b"] | None = None  # class indices, -1 for none
    vq_codes: Int[Tensor, "b m"] | None = None  # what a renderer predicts

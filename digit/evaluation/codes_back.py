"""codes of pictures, codes of their renderings -> the share of codes that come back."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.calls import checked
from digit.errors import DigitError

PROTOCOL = (
    "codes back: the returned picture, rounded to bytes, is tokenised again; the share of all codes of all"
    " pictures that are the same at the same place"
)


@checked
def codes_back(codes: Int[Tensor, "b n"], again: Int[Tensor, "c m"]) -> Float[Tensor, " b"]:
    """The share of each picture's codes that its rendering has at the same place, 0 to 1; on the CPU.

    What a renderer is given and what it shows: a low share says that it does not draw what it was told,
    whatever its pictures look like. Read it beside that of the VQGAN alone, which bounds that of renderers
    that go by VQ codes.

    Args:
        codes: of the pictures, or drawn by a prior.
        again: those that the tokenizer finds in the pictures rendered from `codes`.

    Raises:
        DigitError: no pictures, or not the same number of codes on both sides.
    """
    if codes.shape != again.shape or not codes.numel():
        raise DigitError(
            f"codes of the shapes {tuple(codes.shape)} and {tuple(again.shape)} cannot be compared: give "
            "those of at least one picture and of its rendering, by one tokenizer"
        )
    return (codes.cpu() == again.cpu()).to(torch.float64).mean(1)

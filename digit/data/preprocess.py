"""Pictures as people have them -> pixels, cut and resized as for tokenizing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from digit.bounds import Side
from digit.calls import checked
from digit.data.decode import BrokenImage, upright_rgb
from digit.data.images import open_images
from digit.data.loader import load_pixels
from digit.data.transforms import render
from digit.errors import DigitError

# A file, a folder, a zip or tar of pictures, or a picture of Pillow; or several of them.
Picture = str | Path | Image.Image
PicturesLike = Picture | Sequence[Picture]


@checked
def preprocess(pictures: PicturesLike, *, size: Side) -> UInt8[Tensor, "n 3 s s"]:
    """The pixels of pictures as `digit tokenize` reads them in their first view.

    The short side is resized to `size` pixels (bicubic, antialiased), and the square in the middle is cut
    out. Pictures are turned upright, transparency is laid on white. Of a folder, zip or tar all pictures are
    read, in the order of their names; memory holds all of them.

    Raises:
        DigitError: a picture that is absent or broken, or no picture at all.
    """
    several = [pictures] if isinstance(pictures, str | Path | Image.Image) else list(pictures)
    if not several:
        raise DigitError("pictures: the list is empty: give at least one")
    return torch.cat([_pixels(each, size) for each in several])


def _pixels(picture: Picture, size: int) -> UInt8[Tensor, "n 3 s s"]:
    if isinstance(picture, Image.Image):
        try:
            return torch.from_numpy(render(upright_rgb(picture), size)[None])
        except BrokenImage as error:
            raise DigitError(
                f"pictures: a picture of Pillow cannot be read ({error}): give another"
            ) from None
    source = open_images(picture, strict=True)
    return load_pixels(source, np.arange(len(source)), size, strict=True)[1]

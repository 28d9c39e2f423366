"""What a visitor sends -> pixels, by the bounded reader of pictures; and pixels -> what a browser shows."""

import base64
from io import BytesIO

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from digit.data.decode import BrokenImage, decode
from digit.data.transforms import render
from digit.errors import DigitError

MOST_BYTES = 20 * 2**20  # of an upload
_URL = "data:image/png;base64,"


def pixels_of(data: bytes, side: int) -> UInt8[Tensor, "1 3 s s"]:
    """A picture's file as a square of `side` pixels, as `digit tokenize` sees it; DigitError for others."""
    try:
        return torch.from_numpy(render(decode(data), side)).unsqueeze(0)
    except BrokenImage as error:
        raise DigitError(f"this picture cannot be read ({error}): give a JPEG, PNG or WebP") from None


def to_url(pixels: UInt8[Tensor, "3 h w"]) -> str:
    """A picture as a text that a browser shows, a PNG in it."""
    file = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, "png")
    return _URL + base64.b64encode(file.getvalue()).decode()


def from_url(text: object, side: int) -> UInt8[Tensor, "1 3 s s"]:
    """The picture in such a text; DigitError where there is none."""
    if not isinstance(text, str) or not text.startswith(_URL) or len(text) > MOST_BYTES:
        raise DigitError("there is no picture: upload one, or draw one")
    try:
        data = base64.b64decode(text.removeprefix(_URL), validate=True)
    except ValueError:
        raise DigitError("the picture did not arrive whole: try again") from None
    return pixels_of(data, side)

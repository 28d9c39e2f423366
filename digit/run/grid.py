"""Pixels -> one picture for people to look at, with words over its columns and beside its rows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from digit.printing import readable

SMALLEST = 96  # px: smaller pictures are enlarged
FONT = 12  # px
WORD = 60  # characters of a title at most


def grid(
    pixels: UInt8[torch.Tensor, "n 3 h w"],
    *,
    columns: int | None = None,
    gap: int = 2,
    above: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> Image.Image:
    """Pictures row by row on white, as many columns as rows if not said; small ones are enlarged.

    Args:
        pixels: the pictures.
        columns: in a row, at most as many as there are pictures.
        gap: white pixels between pictures.
        above: a title for each column, cut off where it is wider.
        beside: a title for each row.
    """
    count, _, height, width = pixels.shape
    above, beside = ([readable(word, WORD) for word in words] for words in (above, beside))
    across = min(columns or math.ceil(math.sqrt(count)), count)
    down = math.ceil(count / across)
    zoom = max(1, SMALLEST // height)
    high, wide = height * zoom + gap, width * zoom + gap
    font = ImageFont.load_default(FONT)
    head = FONT + 6 if above else 0
    left = max((math.ceil(font.getlength(word)) + 8 for word in beside), default=0)
    sheet = np.full((head + down * high + gap, left + across * wide + gap, 3), 255, np.uint8)
    for i, picture in enumerate(pixels.permute(0, 2, 3, 1).cpu().numpy()):
        y, x = head + gap + (i // across) * high, left + gap + (i % across) * wide
        sheet[y : y + height * zoom, x : x + width * zoom] = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)
    for i, word in enumerate(above[:across]):
        draw.text((left + gap + i * wide, 3), _cut(word, font, wide - gap), "black", font)
    for i, word in enumerate(beside[:down]):
        draw.text((4, head + gap + i * high + (high - FONT) // 2), word, "black", font)
    return image


def _cut(word: str, font: Any, room: int) -> str:
    """As much of a word as fits into `room` pixels."""
    if font.getlength(word) <= room:
        return word
    while word and font.getlength(word + "…") > room:
        word = word[:-1]
    return word + "…"

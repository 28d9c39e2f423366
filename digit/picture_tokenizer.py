"""What any tokenizer of pictures is: one protocol for tokenizing, measuring and training. Without torch."""

import os
import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class PictureTokenizer(Protocol):
    """Any tokenizer of pictures (b, 3, h, w), floats in [0, 1]; only `encode` is always needed.

    To write codes also `codes`, the size of the codebook, at most 65,536; and `size`, the side in pixels at
    which pictures are read, unless --size says it. Measurements and trainings use what else there is:
    `vectors(codes)` -> (b, n, d), what codes stand for; `features(pixels)` -> (b, n, d), what is quantised,
    with `nearest(features)` -> codes, which saves a second pass; `decode(codes)` -> pixels in [0, 1] of the
    pictures' size; `id`, a text that is another one whenever codes may be.
    """

    def encode(self, pixels: Any) -> Any:
        """Codes (b, n), whole numbers from 0, of pictures."""
        ...


def names_code(given: object) -> bool:
    """Whether a path says module:object or file.py:object, and is nothing that lies on the disk.

    Who opens such a name runs code: it is taken from who types it, and never out of a file.
    """
    text = str(given) if isinstance(given, str | Path) else ""
    place, _, name = text.rpartition(":")
    if os.name == "nt" and len(place) == 1:  # a drive
        return False
    return bool(place and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name)) and not Path(text).exists()

"""Pictures that a verb reads: one line says what they are read as, and so does its record."""

from collections.abc import Sequence
from pathlib import Path

from digit.data.images import ImageSource, open_images
from digit.progress import say


def open_told(
    pictures: str | Path,
    *,
    under: str | None = None,
    num: int | None = None,
    strict: bool = False,
    classes: Sequence[str] | None = None,
) -> ImageSource:
    """`open_images`, of which `num` are spread over the set; the line that says so is on standard error.

    Raises:
        DigitError: see `open_images`.
    """
    source = open_images(pictures, under=under, classes=classes, strict=strict).spread(num)
    say(source.read_as)
    return source

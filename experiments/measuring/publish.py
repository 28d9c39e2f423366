"""OUT/results -> the folder of results that is kept: JSON files, pictures, and the plots drawn from them."""

import re
from pathlib import Path

from measuring.found import Found
from measuring.plots import draw_all

from digit.errors import DigitError
from digit.files import atomic_file, make_folder
from digit.progress import say

PICTURES = (  # drawn from pictures
    "projection-toy.png",
    "projection-features.png",
    "projection-photos.png",
    "reconstruction.png",
)


# The place of a file on one machine is of no use on another: its folder and name stay.
ABSOLUTE = re.compile(r"(?<![\w./])/(?:[\w.-]+/)*([\w.-]+/[\w.-]+)")


def publish(results: Path, folder: Path) -> None:
    """Copy what is there and draw; what the folder holds besides stays."""
    files = sorted(path for path in results.glob("*.json") if not path.stem.endswith("-sampling"))
    if not files:
        raise DigitError(f"{results} holds no results: run the measurements first, or give --from")
    make_folder(folder)
    for path in [*files, *(results / name for name in PICTURES)]:
        if path.exists():
            with atomic_file(folder / path.name) as file:
                if path.suffix == ".json":
                    text = path.read_text(encoding="utf-8")
                    file.write(ABSOLUTE.sub(r"\1", text).encode())
                else:
                    file.write(path.read_bytes())
    plots = draw_all(Found(folder), folder)
    say(f"{folder}: {len(files)} results, {len(plots)} plots")

"""Pictures as they are drawn -> an animated GIF (`digit sample --gif`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from digit.drawing import Drawing
from digit.files import atomic_file
from digit.pipeline import DigitPipeline
from digit.run.grid import grid

SHOWN = 16  # pictures at most
STEPS = 48  # frames on the way, at most
STEP, LAST = 80, 2500  # milliseconds of a frame, and of the finished pictures


def animate(
    pipeline: DigitPipeline, seeds: Sequence[int], labels: Sequence[int] | None, path: Path, **settings: Any
) -> None:
    """Draw the first pictures once more, looking on, and write what was seen.

    Codes come as squares of colour, then what the renderer makes of them; a seed is its picture, so that they
    end as the files beside them.
    """
    some, own = list(seeds[:SHOWN]), None if labels is None else list(labels[:SHOWN])
    steps: list[Drawing] = []
    how = {"unconditional": own is None, "batch_size": len(some), "callback": steps.append}
    pipeline(own, seeds=some, **how, **settings)
    stride = -(-len(steps) // STEPS)
    frames = [grid(drawing.pixels) for drawing in (*steps[:-1:stride], steps[-1])]
    # One table of colours, that of the finished pictures, would leave the codes grey: each frame has its own.
    shown = [frame.convert("P", palette=Image.Palette.ADAPTIVE, colors=256) for frame in frames]
    told: dict[str, Any] = {"save_all": True, "append_images": shown[1:], "loop": 0}
    told["duration"] = [STEP] * (len(shown) - 1) + [LAST]
    with atomic_file(path) as file:
        shown[0].save(file, "gif", **told)

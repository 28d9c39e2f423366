"""Losses and pictures of a run -> TensorBoard, Weights & Biases or Trackio, as files of this machine.

Nothing is sent unless a tracker's own variables say so (WANDB_MODE, TRACKIO_SPACE_ID). Of updates that are
done again where a run goes on, TensorBoard drops what was before, the others keep both.
"""

import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from digit.errors import DigitError, first_line


class Trackers:
    """The trackers of these names for the run in `out`; DigitError for one that is not installed."""

    def __init__(self, names: Sequence[str], out: Path, step: int) -> None:
        """Open them: what comes after `step` of an earlier start is done again."""
        self._board: Any = None
        self._runs: list[tuple[Any, Any]] = []  # module, run
        name = f"{out.name}-{hashlib.sha256(os.fsencode(out.absolute())).hexdigest()[:6]}"  # one for a folder
        how: dict[str, Any] = {"project": "digit", "name": name, "resume": "allow"}
        local = {"id": name, "dir": out, "mode": os.environ.get("WANDB_MODE", "offline")}
        for each in dict.fromkeys(names):
            try:
                if each == "tensorboard":
                    from torch.utils.tensorboard import SummaryWriter  # slow to import

                    self._board = SummaryWriter(str(out / each), purge_step=step + 1)
                else:
                    module = importlib.import_module(each)
                    self._runs.append((module, module.init(**how, **(local if each == "wandb" else {}))))
            except ImportError:
                raise DigitError(f"{each} is not installed: pip install {each}, or leave it out") from None
            except Exception as error:  # they raise what they like
                raise DigitError(f"--tracker {each} does not start: {first_line(error)}") from None

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by their names."""
        for name, value in values.items() if self._board else ():
            self._board.add_scalar(name, value, step)
        for _, run in self._runs:
            run.log(dict(values), step=step)

    def picture(self, step: int, image: Image.Image) -> None:
        """The samples of a step."""
        if self._board:
            self._board.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        for module, run in self._runs:
            run.log({"samples": module.Image(image.convert("RGB"))}, step=step)

    def close(self) -> None:
        """Write what is left."""
        for close in (self._board and self._board.close, *(run.finish for _, run in self._runs)):
            if close:
                close()

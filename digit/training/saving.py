"""States and artifacts of a run, written beside the training, which waits for a copy of the tensors only."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from digit.distributed import is_main
from digit.training import checkpoint
from digit.training.snapshot import Snapshot, Twin
from digit.training.together import Together
from digit.training.update import Updater
from digit.training.writer import Writer

OnSave = Callable[[nn.Module, Path | None], None]


class Saver:
    """Saves what an `Updater` holds between two updates; the main process writes for all of them.

    One write is in flight at most. What the disk refuses is raised as DigitError or OSError by the next call,
    and the state before is intact.
    """

    def __init__(
        self,
        folder: Path,
        writer: Writer,
        *,
        keep: int,
        step: int | None,
        on_save: OnSave | None,
        twin: Twin | None,
        after: Callable[[], None],
        together: Together | None = None,
    ) -> None:
        """`step` is that of the newest state in `folder`; `after` runs in the thread, behind each write.

        `together` writes states of which each process holds a part.
        """
        self.folder, self.writer, self.keep = folder, writer, keep
        self.step = step  # of the newest state, on the disk or in flight; None where there is none
        self._exported: int | None = None  # step of the artifact, likewise, if this process wrote it
        self._on_save, self._twin, self._after, self._together = on_save, twin, after, together
        self._model, self._optimizer = Snapshot(), Snapshot()

    def save(self, updater: Updater, seconds: float) -> None:
        """Copy, and begin to write, the state of this step and its artifact, or what of them is not there."""
        known, exported = self.step == updater.step, self._exported == updater.step
        self.step = self._exported = updater.step
        state = self._untensored(updater, seconds)
        path = checkpoint.path_of(self.folder, self.step)
        if known and exported:
            if is_main():
                self.writer.start(lambda: checkpoint.amend(path, state))
            return
        if self._together:
            self._save_parts(updater, state, self._together, known=known)
            return
        model, optimizer = updater.model_tensors(), updater.optimizer_tensors()
        if not is_main():
            return
        self.writer.wait()  # for the memory that is now written over
        model, optimizer = self._model.take(model), self._optimizer.take(optimizer)

        def write() -> None:
            if known:
                checkpoint.amend(path, state)
            else:
                tensors: dict[str, Any] = {"model": model, "optimizer": optimizer}
                checkpoint.save(self.folder, state["step"], **tensors, state=state, keep=self.keep)
            if self._on_save and self._twin:
                average = {
                    name.removeprefix("average."): value
                    for name, value in optimizer.items()
                    if name.startswith("average.")
                }
                with torch.no_grad():
                    self._on_save(self._twin.fill(model, average), path)
            self._after()

        self.writer.start(write)

    def _save_parts(
        self, updater: Updater, state: dict[str, Any], together: Together, *, known: bool
    ) -> None:
        """As `save`; every process writes what it holds."""
        self.writer.wait()
        pieces = together.take(model=updater.model_tensors(), optimizer=updater.optimizer_tensors())
        whole = updater.whole_tensors() if self._on_save else {}
        path = checkpoint.path_of(self.folder, state["step"])

        def write() -> None:
            if not known:
                together.write(self.folder, pieces, state, self.keep)
            elif is_main():
                checkpoint.amend(path, state)
            if self._on_save and self._twin:
                with torch.no_grad():
                    self._on_save(self._twin.fill(whole, {}), path)
            self._after()

        self.writer.start(write)

    def amend(self, updater: Updater, seconds: float) -> None:
        """Write what is no tensor into the newest state, if there is one: its tensors are those of now."""
        if self.step is not None and is_main():
            self.writer.wait()
            state = self._untensored(updater, seconds) | {"step": self.step}
            checkpoint.amend(checkpoint.path_of(self.folder, self.step), state)

    def _untensored(self, updater: Updater, seconds: float) -> dict[str, Any]:
        """The rest of a state, copied: lists go on growing."""
        return copy.deepcopy(updater.state()) | {"seconds": seconds, "step": updater.step}

"""States and artifacts of a run, written beside the training, which waits for a copy of the tensors only."""

import copy
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from digit.distributed import TIMEOUT, gather, is_main, rank, world_size
from digit.errors import DigitError
from digit.training import checkpoint
from digit.training.average import places
from digit.training.shards import Piece, piece
from digit.training.update import Updater

OnSave = Callable[[nn.Module, Path | None], None]


class Writer:
    """Runs work in the one thread of `pool`, beside the training thread, which alone may call its methods."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._work: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`, once the work before it is done; raises what went wrong in that."""
        self.wait()
        self._work = self._pool.submit(work)

    def check(self) -> None:
        """Raise what went wrong, if the work has ended; does not wait."""
        if self._work is not None and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the work in flight; raises what went wrong in it."""
        if self._work is not None:
            work, self._work = self._work, None
            work.result()


class Snapshot:
    """Copies of tensors on the CPU, in memory of their own that every copy uses again.

    New memory would take longer: the system hands it out page by page.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as they are now, from any device; what the call before gave is overwritten."""
        before, self._kept = self._kept, {}
        for name, tensor in tensors.items():
            kept = before.get(name)
            if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                kept = torch.empty(tensor.shape, dtype=tensor.dtype)
            self._kept[name] = kept.copy_(tensor)
        return dict(self._kept)


class Twin:
    """A second stage on the CPU, in eval mode, whose weights are those of a snapshot and do not move."""

    def __init__(self, stage: nn.Module) -> None:
        """Copy the stage as it is before training: neither compiled nor spread over processes."""
        self.stage = copy.deepcopy(stage).cpu().eval()

    @torch.no_grad()
    def fill(self, model: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> nn.Module:
        """The stage with the tensors of its state_dict, and the average in place of those that have one."""
        self.stage.load_state_dict(model)
        for name, place, key in places(self.stage):
            if name in average:
                place[key].copy_(average[name])
        return self.stage


class Together:
    """Writes sharded states from a thread of each process; `out` is a folder that all of them see."""

    def __init__(self) -> None:
        """To be made in all processes at once: their threads talk in a group of their own."""
        self._group: Any = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self._copies = {"model": Snapshot(), "optimizer": Snapshot()}

    def take(self, **tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Piece]]:
        """Copies of what this process holds of the `model` and of the `optimizer`; the last are overwritten.

        Of what every process has, the main one's are kept.
        """
        taken = {}
        for kind, these in tensors.items():
            parts = {name: piece(tensor.detach()) for name, tensor in these.items()}
            mine = {name: part for name, part in parts.items() if part.sharded or is_main()}
            copies = self._copies[kind].take({name: part.tensor for name, part in mine.items()})
            taken[kind] = {name: part._replace(tensor=copies[name]) for name, part in mine.items()}
        return taken

    def write(
        self, folder: Path, pieces: Mapping[str, Mapping[str, Piece]], state: Mapping[str, Any], keep: int
    ) -> None:
        """Write the state of `step` under `folder` once all processes are here.

        DigitError in the main process, and in those whose part the disk refused.
        """
        if not is_main():
            name = gather(None, self._group)[0]
            if name is not None:
                self._write_part(folder / name, pieces)
            return
        told = False

        def together(temporary: Path) -> dict[str, str]:
            nonlocal told
            told = True
            gather(temporary.name, self._group)
            return self._write_part(temporary, pieces)

        try:
            checkpoint.save(folder, state["step"], state=state, keep=keep, together=together)
        finally:
            if not told:
                gather(None, self._group)  # the folder could not even be made: nobody need wait for it

    def _write_part(self, temporary: Path, pieces: Mapping[str, Mapping[str, Piece]]) -> dict[str, str]:
        """Write what this process holds; the sha256 of the files of all."""
        files, failed = {}, ""
        try:
            files = checkpoint.write_shards(temporary, rank(), world_size(), **pieces)
        except OSError as error:
            failed = str(error)
        everyones = gather({"files": files, "failed": failed}, self._group)
        for number, each in enumerate(everyones):
            if each["failed"] and (failed or is_main()):
                raise DigitError(
                    f"the part of process {number} of the state in {temporary.parent} cannot be written "
                    f"({each['failed']}): earlier states are intact, make room and resume"
                )
        return {name: digest for each in everyones for name, digest in each["files"].items()}


class Saver:
    """Saves what an `Updater` holds between two updates; the main process writes for all of them.

    One write is in flight at most. What the disk refuses is raised as DigitError or OSError by the next call,
    and the state before is intact.
    """

    def __init__(
        self,
        folder: Path,
        writer: Writer,
        keep: int,
        step: int | None,
        on_save: OnSave | None,
        twin: Twin | None,
        after: Callable[[], None],
        *,
        sharded: bool,
    ) -> None:
        """`step`: of the newest state in `folder`; `after` runs in the thread, behind each write."""
        self.folder, self.writer, self.keep = folder, writer, keep
        self.step = step  # of the newest state, on the disk or in flight; None where there is none
        self._exported: int | None = None  # step of the artifact, likewise, if this process wrote it
        self._on_save, self._twin, self._after = on_save, twin, after
        self._together = Together() if sharded else None
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
        if not is_main() and not self._together:
            return
        model, optimizer = updater.stage.state_dict(), updater.optimizer_tensors()
        self.writer.wait()  # for the memory that is now written over
        put: Callable[[], object]
        if together := self._together:
            pieces = together.take(model=model, optimizer=optimizer)
            put = functools.partial(together.write, self.folder, pieces, state, self.keep)
            model, average = updater.whole_tensors() if self._on_save else {}, {}
        else:
            model, optimizer = self._model.take(model), self._optimizer.take(optimizer)
            tensors: dict[str, Any] = {"model": model, "optimizer": optimizer}
            put = functools.partial(
                checkpoint.save, self.folder, self.step, **tensors, state=state, keep=self.keep
            )
            average = {
                name.removeprefix("average."): value
                for name, value in optimizer.items()
                if name.startswith("average.")
            }

        def write() -> None:
            if not known:
                put()
            elif is_main():
                checkpoint.amend(path, state)
            if self._on_save and self._twin:
                with torch.no_grad():
                    self._on_save(self._twin.fill(model, average), path)
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

"""One state written by all processes, each the parts that it holds; the main one puts its name on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch.distributed as dist
from torch import Tensor

from digit.distributed import TIMEOUT, gather, is_main, rank, world_size
from digit.errors import DigitError
from digit.training import checkpoint
from digit.training.shards import Piece, piece
from digit.training.snapshot import Snapshot


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
        except (OSError, safetensors.SafetensorError) as error:
            failed = str(error)
        everyones = gather({"files": files, "failed": failed}, self._group)
        for number, each in enumerate(everyones):
            if each["failed"] and (failed or is_main()):
                raise DigitError(
                    f"the part of process {number} of the state in {temporary.parent} cannot be written "
                    f"({each['failed']}): earlier states are intact, make room and resume"
                )
        return {name: digest for each in everyones for name, digest in each["files"].items()}

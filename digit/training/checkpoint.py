"""Training state: state/step-0001000/{model.safetensors, optimizer.safetensors, state.json}; no pickle.

A state is written under a temporary name, flushed and renamed, and carries the sha256 of its files, so that
whatever is found under its name is whole, or is known not to be.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from digit.distributed import from_main, is_main
from digit.entries import Number, entries
from digit.errors import DigitError
from digit.files import (
    TEMPORARY,
    atomic_folder,
    clean_up,
    make_inner,
    read_json,
    remove,
    sha256_file,
    write_json_atomic,
)
from digit.locks import locked
from digit.tensors import write_safetensors_atomic
from digit.training.shards import Piece, Tensors, like, write

_TYPES: dict[str, Any] = {  # of what a state.json holds, if it holds it
    "step": Number,
    "files": dict[str, str],
    "config": dict[str, Any] | None,
    "seconds": float | None,
    "duties": list[Literal["evaluate", "picture"]] | None,
    "losses": list[float | None] | None,
    "norms": list[float | None] | None,
    "skipped": Number | None,
    "streak": Number | None,
    "compiled": bool | None,
    "kernels": Any,
}
_MOMENTS = {  # what an optimizer keeps of a parameter that it has changed
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


class Checkpoint(NamedTuple):
    """One state as read back."""

    path: Path  # state/step-0001000
    step: int  # finished updates
    model: Mapping[str, Tensor]  # the stage's state_dict, on the CPU
    optimizer: Mapping[str, Tensor]  # "adam.<parameter>.<key>" and "average.<tensor>", on the CPU
    state: dict[str, Any]  # all that is not a tensor


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process and clean it up; DigitError when another one trains there."""
    refusal = f"another process is training in {folder.parent}: wait for it or choose --out"
    with contextlib.ExitStack() as stack:
        try:
            make_inner(folder)
            stack.enter_context(locked(folder, refusal))
            for place in (folder, *paths(folder)):
                clean_up(place)
        except OSError as error:
            raise DigitError(f"{folder} cannot be written ({error}): make room or choose --out") from error
        yield


def save(
    folder: Path,
    step: int,
    *,
    state: Mapping[str, Any],
    keep: int,
    model: Mapping[str, Tensor] | None = None,
    optimizer: Mapping[str, Tensor] | None = None,
    together: Callable[[Path], dict[str, str]] | None = None,
) -> Path:
    """Write the state of `step`, keep the `keep` newest; its path. DigitError when the disk refuses.

    The tensors are `model` and `optimizer`, or what `together` writes into the folder that it is given: the
    sha256 of its files by name.

    Later states, which were damaged when this run began before them, go too, once this one is whole.
    """
    path = path_of(folder, step)
    try:
        with atomic_folder(path) as temporary:
            files = together(temporary) if together else {}
            for name, tensors in ((MODEL, model), (OPTIMIZER, optimizer)):
                if tensors is not None:
                    files[name] = write_safetensors_atomic(temporary / name, tensors)
            write_json_atomic(temporary / STATE, {"step": step, "files": files, **state}, checksum=True)
        found = paths(folder)
        before = [other for other in found if _step(other) <= step]
        for old in (*before[:-keep], *found[len(before) :]):
            # Renamed first: a half-removed folder must not look like a damaged state.
            remove(old.rename(folder / f"{TEMPORARY}{secrets.token_hex(8)}-{old.name}"))
    except OSError as error:
        raise DigitError(
            f"{path} cannot be written ({error}): earlier states are intact, make room and resume"
        ) from error
    return path


def write_shards(
    folder: Path, number: int, count: int, *, model: Mapping[str, Piece], optimizer: Mapping[str, Piece]
) -> dict[str, str]:
    """Write what process `number` of `count` holds of a state; the sha256 of its files by name."""
    folder.mkdir(exist_ok=True)  # made by the main process, which a shared disk may be slow to show
    files = {}
    for kind, pieces in (("model", model), ("optimizer", optimizer)):
        name = f"{kind}-{number + 1:05d}-of-{count:05d}.safetensors"
        files[name] = write(folder / name, pieces)
    return files


def amend(path: Path, state: Mapping[str, Any]) -> None:
    """Replace what is no tensor in the state at `path`; DigitError when the disk refuses."""
    try:
        write_json_atomic(path / STATE, {**read_json(path / STATE), **state}, checksum=True)
    except OSError as error:
        raise DigitError(f"{path / STATE} cannot be written ({error}): make room and resume") from error


def path_of(folder: Path, step: int) -> Path:
    """Where the state of `step` is."""
    return folder / f"step-{step:07d}"


def paths(folder: Path) -> list[Path]:
    """The states under `folder`, oldest first; a link to one elsewhere, which would be changed, is none."""
    here = (path for path in folder.glob("step-*") if path.is_dir() and not path.is_symlink())
    return sorted(here, key=_step)


def _step(path: Path) -> int:
    """The step in a state's name; -1 where it has none."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def load_newest(folder: Path, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest state whose files are whole, or None where there is no state at all.

    A damaged one is passed over, with a sentence to `warn`. DigitError when there are states and none is
    whole.
    """
    found = paths(folder)
    for path in reversed(found):
        try:
            return load(path)
        except DigitError as error:
            warn(f"passing over a damaged state: {error}")
    if found:
        raise DigitError(
            f"none of the {len(found)} states in {folder} can be read: delete the folder to start again"
        )
    return None


def newest_of_main(folder: Path, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole state that the main process found, in all processes."""
    found = load_newest(folder, warn=warn) if is_main() else None
    step = from_main(found.step if found else None)
    return found if step is None or is_main() else load(path_of(folder, step), verify=False)


def load(path: Path, *, verify: bool = True) -> Checkpoint:
    """Open one state, of one process or of shards; its tensors are read when they are asked for.

    DigitError when a file is absent, damaged or, with `verify`, not the one that was written.
    """
    state = entries(read_json(path / STATE), _TYPES, where=path / STATE)
    files = state["files"]
    if not files or any(Path(name).name != name for name in files):
        raise DigitError(f"{path / STATE} is not the state of a training run")
    for name, digest in files.items():
        if not (path / name).is_file() or (verify and sha256_file(path / name) != digest):
            raise DigitError(f"{path / name} is absent or is not what was written (sha256)")
    model, optimizer = (
        Tensors([path / name for name in sorted(files) if name.startswith(kind)])
        for kind in ("model", "optimizer")
    )
    return Checkpoint(path, state["step"], model, optimizer, state)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Any, str]) -> dict[str, Tensor]:
    """The optimizer's moments and counters as {"adam.<parameter name>.<key>": tensor}."""
    return {
        f"adam.{names[parameter]}.{key}": torch.as_tensor(value)
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Any, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put moments and counters back; a parameter without any had no gradient so far and stays so.

    Raises KeyError or ValueError where a parameter has other ones than this kind of optimizer keeps.
    """
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = {names[parameter]: parameter for parameter in order}
    states: dict[str, dict[str, Tensor]] = {}
    for name in tensors:
        if name.startswith("adam."):
            parameter, key = name.removeprefix("adam.").rsplit(".", 1)
            states.setdefault(parameter, {})[key] = value = like(known[parameter], tensors, name)
            if key != "step" and value.shape != known[parameter].shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}")
    for parameter, state in states.items():
        if state.keys() != _MOMENTS[type(optimizer)]:
            raise KeyError(f"the moments of {parameter} are {', '.join(sorted(state))}")
    state = {
        index: states[names[parameter]] for index, parameter in enumerate(order) if names[parameter] in states
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

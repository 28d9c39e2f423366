"""Training state: state/step-0001000/{model.safetensors, optimizer.safetensors, state.json}; no pickle.

A state is written under a temporary name, flushed and renamed, and carries the sha256 of its files, so that
whatever is found under its name is whole, or is known not to be.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from digit.errors import DigitError
from digit.files import (
    TEMPORARY,
    atomic_path,
    on_cpu,
    read_json,
    read_safetensors,
    remove,
    sha256_file,
    sweep,
    write_json_atomic,
)

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


class Checkpoint(NamedTuple):
    """One state as read back."""

    path: Path  # state/step-0001000
    step: int  # finished updates
    model: dict[str, Tensor]  # the stage's state_dict, on the CPU
    optimizer: dict[str, Tensor]  # "adam.<parameter>.<key>" and "average.<tensor>", on the CPU
    state: dict[str, Any]  # all that is not a tensor


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process and sweep it; DigitError when another one trains there."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for place in (folder, *paths(folder)):
                sweep(place)
        except BlockingIOError:
            raise DigitError(
                f"another process is training in {folder.parent}: wait for it or choose --out"
            ) from None
        except OSError as error:
            raise DigitError(f"{folder} cannot be written ({error}): make room or choose --out") from error
        yield


def save(
    folder: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the state of `step`, keep the `keep` newest; its path. DigitError when the disk refuses.

    Later states, which were damaged when this run began before them, go too, once this one is whole.
    """
    path = path_of(folder, step)
    try:
        with atomic_path(path) as temporary:
            temporary.mkdir()
            files = {}
            for name, tensors in ((MODEL, model), (OPTIMIZER, optimizer)):
                safetensors.torch.save_file(on_cpu(tensors), temporary / name)
                files[name] = sha256_file(temporary / name)
            write_json_atomic(temporary / STATE, {"step": step, "files": files, **state}, checksum=True)
        found = paths(folder)
        before = [other for other in found if _step(other) <= step]
        for old in (*before[:-keep], *found[len(before) :]):
            # Renamed first: a half-removed folder must not look like a damaged state.
            remove(old.rename(folder / f"{TEMPORARY}{old.name}"))
    except (OSError, safetensors.SafetensorError) as error:
        raise DigitError(
            f"{path} cannot be written ({error}): earlier states are intact, make room and resume"
        ) from error
    return path


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
    """The states under `folder`, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), key=_step)


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


def load(path: Path) -> Checkpoint:
    """Read one state; DigitError when a file is absent, damaged or not the one that was written."""
    state = read_json(path / STATE)
    if not isinstance(state, dict) or not isinstance(state.get("step"), int) or "files" not in state:
        raise DigitError(f"{path / STATE} is not the state of a training run")
    for name in (MODEL, OPTIMIZER):
        if not (path / name).is_file() or sha256_file(path / name) != state["files"].get(name):
            raise DigitError(f"{path / name} is absent or is not what was written (sha256)")
    return Checkpoint(
        path, state["step"], read_safetensors(path / MODEL), read_safetensors(path / OPTIMIZER), state
    )


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
    """Put moments and counters back; a parameter without any had no gradient so far and stays so."""
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            parameter, key = name.removeprefix("adam.").rsplit(".", 1)
            states.setdefault(parameter, {})[key] = tensor
    state = {
        index: states[names[parameter]] for index, parameter in enumerate(order) if names[parameter] in states
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

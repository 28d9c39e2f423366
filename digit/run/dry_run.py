"""`digit train ... --dry-run`: the settings, what the run would take, and whether it fits; then stop.

Inputs are opened and checked as the run does it. Nothing is written.
"""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from torch import nn

from digit.data.codes import Codes
from digit.distributed import world_size
from digit.errors import DigitError
from digit.nn.batch import CodeBatch
from digit.progress import say
from digit.run.dry_run_data import writable
from digit.training import estimate
from digit.training.checkpoint import paths
from digit.training.config import TrainConfig
from digit.training.estimate import GIB, MEMORY
from digit.training.kernels import check_kernels
from digit.training.log import read_status
from digit.training.parallel import blocks
from digit.weights.config import to_dict

Board = Literal["H100", "H100 PCIe", "H100 NVL", "H200", "A100", "A100 40GB"]


@dataclass(frozen=True)
class DryRun:
    """What a dry run estimates."""

    dry_run: bool = False  # print settings, memory, time and cost of the run and stop; nothing is written
    board: Board = "H100"  # of the dry run; A100 is the one of 80 GB
    boards: int | None = None  # of the dry run, a process each; as many as there are processes if left out
    price_per_hour: float | None = None  # of one board, for the dry run's cost
    mfu: float | None = None  # share of the board's rate that the dry run counts on; as measured if left out

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.boards is not None and self.boards < 1:
            raise DigitError(f"--boards {self.boards}: give a number from 1")
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise DigitError(f"--mfu {self.mfu}: give a share above 0 and up to 1, such as 0.45")

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Inside, a dry run's weights have shapes and no values."""
        with torch.device("meta") if self.dry_run else contextlib.nullcontext():
            yield


def code_batch(length: int, *, vq_length: int | None = None) -> CodeBatch:
    """Two samples of codes with labels, without values."""
    codes = torch.empty(2, length, dtype=torch.int64, device="meta")
    vq_codes = None if vq_length is None else codes.new_empty(2, vq_length)
    return CodeBatch(codes, codes.new_empty(2), vq_codes)


def dry_run(
    stage: nn.Module,
    batch: Any,
    training: TrainConfig,
    out: Path,
    plan: DryRun,
    *,
    model: Any,
    inputs: dict[str, Any],
    counted_as: nn.Module | None = None,
    speed_is_known: bool = True,
) -> dict[str, Any]:
    """What the verb prints instead of training; a sentence more on standard error where it will not fit.

    `batch` has two samples or more. `model` is the stage's config as it would be stored and `inputs` what was
    found. `counted_as` computes all of an update, where a frozen network runs before the stage.
    `speed_is_known` says that such stages were timed.

    Raises:
        DigitError: the run would stop at once: its folder cannot be written or another process trains there,
            its states are of another model, or the batch does not divide among the boards.
    """
    whole, boards = counted_as or stage, plan.boards or world_size()
    sharded = training.sharded and boards > 1
    if training.kernels:
        check_kernels(stage, bf16=training.precision != "fp32", sharded=sharded)
    if sharded and not blocks(stage):
        raise DigitError(
            f"{type(stage).__name__} has no transformer blocks to shard: train it without --sharded"
        )
    state = _check_folder(out, stage, training)
    found = estimate.measure(whole, batch, training, processes=boards)
    flops = estimate.flops_of(whole, batch, found)
    parameters = sum(p.numel() for p in whole.parameters())
    result: dict[str, Any] = {
        "dry_run": True,
        "settings": {"model": to_dict(model), "training": asdict(training), "out": out},
        "inputs": inputs,
        "state": state,
        "parameters": {"trained": sum(p.numel() for p in stage.parameters() if p.requires_grad)},
        "flops": None if flops is None else {"per_sample": flops, "per_update": flops * training.batch},
        "memory": _memory(whole, found, training, plan, boards),
        "time": _time(flops if speed_is_known or plan.mfu else None, training, plan, boards, parameters),
        "disk": _disk(stage, training, out),
    }
    if parameters > result["parameters"]["trained"]:
        result["parameters"]["frozen"] = parameters - result["parameters"]["trained"]
    for part in ("memory", "disk"):
        if not result[part].get("fits", True):
            say(f"digit: {result[part]['advice']}")
    return result


def describe_codes(codes: Codes) -> dict[str, Any]:
    """What a dry run says of a tokenised set."""
    arrays = {name: codes.array(name) for name in codes.meta["streams"]}
    return {
        "path": codes.path,
        "pictures": len(codes),
        "views": int(codes.meta["views"]),
        "classes": len(codes.classes),
        **{name: f"{array.shape[2]} out of {codes.vocabulary(name)}" for name, array in arrays.items()},
        "gib": sum(array.nbytes for array in arrays.values()) / GIB,
    }


def _memory(stage: nn.Module, found: Any, training: TrainConfig, plan: DryRun, boards: int) -> dict[str, Any]:
    if found is None:
        return {"advice": "this stage's loss asks for values, so its memory cannot be counted beforehand"}
    sharded = training.sharded
    size = estimate.micro_batch(training, boards)
    parts = estimate.memory(stage, found, training, processes=boards, sharded=sharded)
    room = MEMORY[plan.board]
    fits = parts.total <= room * GIB
    answer: dict[str, Any] = {
        "gib_of_each_process": {name: value / GIB for name, value in asdict(parts).items()},
        "micro_batch": size,
        "micro_batches_of_an_update": -(-training.batch // boards // size),
        "counted_gib": parts.counted / GIB,
        "total_gib": parts.total / GIB,
        "board_gib": room,
        "fits": fits,
    }
    if not fits:
        most = estimate.largest_micro_batch(parts, size, plan.board)
        advice = f"{parts.total / GIB:.0f} GiB are needed and one {plan.board} has {room}: "
        if most:
            advice += f"give --micro-batch {1 << (most.bit_length() - 1)} ({most} at most)"
        elif sharded:
            advice += "one sample at once is too much too, give more --boards or a smaller model"
        else:
            advice += "one sample at once is too much too, give --sharded and several --boards"
        answer["advice"] = advice
    return answer


def _time(
    flops: float | None, training: TrainConfig, plan: DryRun, boards: int, parameters: int
) -> dict[str, Any]:
    is_measured = plan.mfu is None
    if flops is None or (is_measured and training.precision == "fp32"):
        return {"assumes": "no such training was timed: give --mfu, the share of the bf16 rate to count on"}
    mfu = plan.mfu or estimate.assumed_mfu(parameters, training)
    hours = estimate.hours(flops, training, plan.board, boards=boards, mfu=mfu)
    source = f"as measured on one {estimate.MEASURED_ON[estimate.mode(training)]}"
    source = source if is_measured else "as given by --mfu"
    several = (
        f", and {estimate.EFFICIENCY:.0%} of it on each of {boards} boards, a goal and no measurement"
        if boards > 1
        else ""
    )
    return {
        "board": plan.board,
        "boards": boards,
        "hours": hours,
        "board_hours": hours * boards,
        **({} if plan.price_per_hour is None else {"cost": hours * boards * plan.price_per_hour}),
        "samples_per_second": training.batch * training.steps / hours / 3600,
        "assumes": f"{mfu:.1%} of the data sheet's bf16 rate, {source}{several}",
    }


def _disk(stage: nn.Module, training: TrainConfig, out: Path) -> dict[str, Any]:
    state = estimate.state_bytes(stage, training)
    artifact = sum(tensor.numel() * tensor.element_size() for tensor in stage.state_dict().values())
    most = (training.keep + 1) * state + 2 * artifact  # the newest is written before the oldest goes
    free = shutil.disk_usage(writable(out)).free
    answer: dict[str, Any] = {
        "state_gib": state / GIB,
        "states_kept": training.keep,
        "artifact_gib": artifact / GIB,
        "most_gib": most / GIB,
        "free_gib": free / GIB,
        "fits": most <= free,
    }
    if most > free:
        answer["advice"] = (
            f"{most / GIB:.1f} GiB are needed below {out} and {free / GIB:.1f} are free: make room, give "
            "--keep 1 or choose another --out"
        )
    return answer


def _check_folder(out: Path, stage: nn.Module, training: TrainConfig) -> str:
    """What the run would do with what lies in `out`; DigitError where it would refuse."""
    writable(out)
    if _busy(out / "state" / ".lock"):
        raise DigitError(f"another process is training in {out}: wait for it or choose --out")
    states = paths(out / "state")
    if not states:
        return "starts anew"
    _same_shapes(states[-1], stage)
    status = read_status(out)
    if status is not None and status.finished and status.step >= training.steps:
        return f"{states[-1].name} is the end of this run: nothing would be done"
    return f"resumes from {states[-1].name}"


def _same_shapes(state: Path, stage: nn.Module) -> None:
    """DigitError where the newest state is one of another model."""
    file = state / "model.safetensors"
    if not file.is_file():
        return
    with safetensors.safe_open(file, "pt") as opened:  # pyright: ignore[reportAttributeAccessIssue]
        there = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    here = {name: tuple(tensor.shape) for name, tensor in stage.state_dict().items()}
    if there != here:
        raise DigitError(f"{state} is the state of another model: choose another --out")


def _busy(lock: Path) -> bool:
    if not lock.is_file():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False

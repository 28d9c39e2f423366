"""`digit train ... --dry-run`: the settings, what the run would take, and whether it fits; then stop.

Inputs are opened and checked as the run does it. Nothing is written.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from digit.bounds import Size, Weight
from digit.calls import check_fields
from digit.errors import DigitError, spoken
from digit.run.table import print_table
from digit.training.config import TrainConfig

if TYPE_CHECKING:  # the settings are read before torch is imported
    from torch import nn

    from digit.data.codes import Codes
    from digit.nn.batch import CodeBatch

GPU = Literal["H100", "H100 PCIe", "H100 NVL", "H200", "A100", "A100 40GB"]


@dataclass(frozen=True)
class DryRun:
    """What a dry run estimates."""

    dry_run: bool = False  # print settings, memory, time and cost of the run and stop; nothing is written
    gpu: GPU = "H100"  # of the dry run; A100 is the one of 80 GB
    gpus: Size | None = None  # of the dry run, a process each; as many as there are processes if left out
    price_per_hour: Weight | None = None  # of one GPU, for the dry run's cost

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_fields(self)

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Inside, a dry run's weights have shapes and no values."""
        import torch

        with torch.device("meta") if self.dry_run else contextlib.nullcontext():
            yield


def code_batch(length: int, *, vq_length: int | None = None) -> "CodeBatch":
    """Two samples of codes with labels, without values."""
    import torch

    from digit.nn.batch import CodeBatch

    codes = torch.empty(2, length, dtype=torch.int64, device="meta")
    vq_codes = None if vq_length is None else codes.new_empty(2, vq_length)
    return CodeBatch(codes, codes.new_empty(2), vq_codes)


def describe_codes(codes: "Codes") -> dict[str, Any]:
    """What a dry run says of a tokenised set."""
    arrays = {name: codes.array(name) for name in codes.meta["streams"]}
    return {
        "path": codes.path,
        "pictures": len(codes),
        "views": next(iter(arrays.values())).shape[1],
        "classes": len(codes.classes),
        **{name: f"{array.shape[2]} out of {codes.vocabulary(name)}" for name, array in arrays.items()},
        "gib": sum(array.nbytes for array in arrays.values()) / 2**30,
    }


def dry_run(
    stage: "nn.Module",
    batch: Any,
    training: TrainConfig,
    out: Path,
    plan: DryRun,
    *,
    model: Any,
    inputs: dict[str, Any],
    counted_as: "nn.Module | None" = None,
    speed_is_known: bool = True,
) -> dict[str, Any]:
    """What the verb prints instead of training, as a table and as a record.

    `batch` has two samples or more. `model` is the stage's config as it would be stored and `inputs` what was
    found. `counted_as` computes all of an update, where a frozen network runs before the stage.
    `speed_is_known` says that such stages were timed.

    Raises:
        DigitError: the run would stop at once: its folder cannot be written or another process trains there,
            its states are of another model, or the batch does not divide among the GPUs.
    """
    from digit.distributed import world_size
    from digit.training.flops import flops_per_sample
    from digit.training.optimizer import warm_up_warning
    from digit.training.parallel import blocks
    from digit.weights.storage import to_dict

    whole, gpus = counted_as or stage, plan.gpus or world_size()
    if training.sharded and gpus > 1 and not blocks(stage):
        raise DigitError(
            f"{type(stage).__name__} has no transformer blocks to shard: train it without --sharded"
        )
    state = _check_folder(out, stage, training)
    flops = flops_per_sample(whole, batch)
    trained = sum(p.numel() for p in stage.parameters() if p.requires_grad)
    warm_up = warm_up_warning(training.optimizer, training.steps)
    result: dict[str, Any] = {
        "dry_run": True,
        "settings": {"model": to_dict(model), "training": asdict(training), "out": out},
        "inputs": inputs,
        "state": state,
        "epochs": training.steps * training.batch / inputs["pictures"],
        "parameters": {"trained": trained, "frozen": sum(p.numel() for p in whole.parameters()) - trained},
        "flops": None if flops is None else {"per_sample": flops, "per_update": flops * training.batch},
        "memory": _memory(whole, batch, training, plan, gpus),
        "time": _time(whole, flops if speed_is_known else None, training, plan, gpus),
        "disk": _disk(stage, training, out),
        "advice": [] if warm_up is None else [warm_up],
    }
    result["advice"] += [result[part]["advice"] for part in ("memory", "disk") if "advice" in result[part]]
    _tell(result, plan)
    return result


def _tell(result: dict[str, Any], plan: DryRun) -> None:
    """The table, and below it what to change."""
    from digit.progress import say

    training, memory, time, disk = (
        result["settings"]["training"],
        *(result[part] for part in ("memory", "time", "disk")),
    )
    optimizer = training["optimizer"]
    rows: dict[str, Any] = {
        **{name.replace("_", " "): value for name, value in result["inputs"].items() if name != "path"},
        "parameters trained": result["parameters"]["trained"],
        "updates": training["steps"],
        "samples per update": training["batch"],
        "epochs": f"{result['epochs']:,.1f}",
        "learning rate": f"{optimizer['lr']:g}",
        "warm-up, updates": optimizer["warmup"],
        "TFLOP per update": result["flops"] and f"{result['flops']['per_update'] / 1e12:,.3g}",
    }
    rows |= {f"GiB of {name}": f"{size:.2f}" for name, size in memory.get("gib", {}).items() if size}
    if memory:
        rows["GiB in all"] = f"{memory['total_gib']:.1f} of {memory['gpu_gib']} on one {plan.gpu}"
    if "hours" in time:
        rows["time"] = f"{_duration(time['hours'])} on {time['gpus']} x {plan.gpu}"
    if "cost" in time:
        rows["cost"] = f"{time['cost']:,.2f}"
    rows["GiB on disk"] = f"{disk['most_gib']:.2f} of {disk['free_gib']:.0f} free"
    rows["this command"] = result["state"]
    shown = {name: [str(value) if isinstance(value, Path) else value] for name, value in rows.items()}
    print_table(f"dry run: {result['inputs']['path']} to {result['settings']['out']}", [""], shown)
    for line in (time["assumes"], *result["advice"]):
        say(f"digit: {line}")


def _duration(hours: float) -> str:
    for size, unit in ((1.0, "hours"), (60.0, "minutes")):
        if hours * size >= 1:
            return f"{hours * size:,.1f} {unit}"
    return f"{hours * 3600:.2g} seconds"


def _memory(stage: "nn.Module", batch: Any, training: TrainConfig, plan: DryRun, gpus: int) -> dict[str, Any]:
    """What each process needs, and whether its GPU has it; {} where the loss asks for values."""
    from digit.training import estimate

    parts = estimate.memory(stage, batch, training, processes=gpus)
    if parts is None:
        return {}
    size, room, need = estimate.micro_batch(training, gpus), estimate.MEMORY[plan.gpu], parts.total / 2**30
    answer: dict[str, Any] = {
        "gib": {name: value / 2**30 for name, value in asdict(parts).items()},
        "micro_batch": size,
        "counted_gib": parts.counted / 2**30,
        "total_gib": need,
        "gpu_gib": room,
        "fits": need <= room,
    }
    if not answer["fits"]:
        most = estimate.largest_micro_batch(parts, size, plan.gpu)
        more = "more --gpus or a smaller model" if training.sharded else "--sharded and several --gpus"
        advice = f"one sample at once is too much too, give {more}"
        if most:
            advice = f"give --micro-batch {1 << (most.bit_length() - 1)} ({most} at most)"
        answer["advice"] = spoken(f"{need:.0f} GiB are needed and one {plan.gpu} has {room}: {advice}")
    return answer


def _time(
    stage: "nn.Module", flops: float | None, training: TrainConfig, plan: DryRun, gpus: int
) -> dict[str, Any]:
    from digit.training import estimate

    if flops is None or training.precision == "fp32":
        return {"assumes": "no such training was timed: hours are not known"}
    way = estimate.mode(stage, training)
    mfu = estimate.assumed_mfu(sum(p.numel() for p in stage.parameters()), way)
    hours = estimate.hours(flops, training, plan.gpu, gpus=gpus, mfu=mfu)
    assumes = f"{mfu:.1%} of the data sheet's bf16 rate, as measured on one {estimate.MEASURED_ON[way]}"
    if gpus > 1:
        assumes += f", and {estimate.EFFICIENCY:.0%} of it on each of {gpus} GPUs, a goal and no measurement"
    return {
        "gpu": plan.gpu,
        "gpus": gpus,
        "hours": hours,
        "gpu_hours": hours * gpus,
        **({} if plan.price_per_hour is None else {"cost": hours * gpus * plan.price_per_hour}),
        "samples_per_second": training.batch * training.steps / hours / 3600,
        "assumes": f"time assumes {assumes}",
    }


def _disk(stage: "nn.Module", training: TrainConfig, out: Path) -> dict[str, Any]:
    from digit.files import check_writable
    from digit.training import estimate

    state = sum(estimate.state_parts(stage, training)) / 2**30
    artifact = sum(tensor.numel() * tensor.element_size() for tensor in stage.state_dict().values()) / 2**30
    most = (training.keep + 1) * state + 2 * artifact  # the newest is written before the oldest goes
    free = shutil.disk_usage(check_writable(out)).free / 2**30
    sizes = {"state_gib": state, "artifact_gib": artifact, "most_gib": most, "free_gib": free}
    if most <= free:
        return {**sizes, "fits": True}
    advice = f"{most:.1f} GiB are needed below {out} and {free:.1f} are free: make room, keep fewer states "
    return {**sizes, "fits": False, "advice": spoken(f"{advice}(keep = 1) or choose another --out")}


def _check_folder(out: Path, stage: "nn.Module", training: TrainConfig) -> str:
    """What the run would do with what lies in `out`; DigitError where it would refuse."""
    from digit.files import check_writable
    from digit.locks import refuse_locked
    from digit.progress import say
    from digit.training.checkpoint import load_newest
    from digit.training.log import read_status
    from digit.training.shards import shape_of

    check_writable(out)
    refuse_locked(out / "state", f"another process is training in {out}: wait for it or choose --out")
    found = load_newest(out / "state", warn=say)
    if found is None:
        return "starts anew"
    shapes = {name: shape_of(found.model, name) for name in found.model}
    if shapes != {name: tuple(tensor.shape) for name, tensor in stage.state_dict().items()}:
        raise DigitError(f"{found.path} is the state of another model: choose another --out")
    status = read_status(out)
    if status is not None and status.finished and status.step >= training.steps:
        return f"{found.path.name} is the end of this run: nothing would be done"
    return f"resumes from {found.path.name}"

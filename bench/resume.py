"""Is a resumed training the one that went on? First loss after resuming, and what saving costs an update.

    python bench/resume.py [--processes 2] [--rows ROW ...] [--seconds S] [--out F] [--smoke]

The base prior trains for 2 n updates on random codes and saves at n; a second run takes up a copy of that
state and goes on to 2 n by the same command. `first` is the difference of the losses at n + 1, `largest` that
of any update after n: the goal is 0 on a CPU, and 1e-6 for the first on a GPU. Each way of training is a row:
one process, several by DDP, several with --sharded. `held` is the time for which the save at n held training
up, `update` that of an update, `beside` that of one while the thread writes.

Cost: about two minutes a row on H100s. Each row is written once known, and none is begun after --seconds; one
that fails is noted and the others go on.
"""

import argparse
import faulthandler
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import describe, parser

from digit.distributed import joined, leave, share
from digit.files import write_json_atomic
from digit.nn.batch import CodeBatch
from digit.prior import Prior
from digit.run.device import choose_device
from digit.run.processes import run_together
from digit.run.recipes import RECIPES
from digit.training.log import read
from digit.training.loop import train

FIRST = 1e-6  # on a GPU
# Batch and micro-batch; on a GPU the micro-batch of bench/scaling.py, which finds the same code compiled.
SIZES = {"small": (8, 4), "whole": (1024, 256)}
WAYS = ("one", "several", "sharded")
HANGS = 240  # seconds after which a process on a GPU says where it stands, and ends


def child(out: Path, updates: int, *, sharded: bool, small: bool) -> None:
    """Train in `out` until 2 * updates are done, and save after `updates`."""
    recipe: Any = RECIPES["base"]
    shape = recipe.model
    if small:
        shape = replace(shape, codes=80, length=16, width=32, layers=2, heads=2)
    device = choose_device(None)
    batch, micro = SIZES["small" if small else "whole"]
    config = replace(
        recipe.training,
        steps=2 * updates,
        batch=batch,
        micro_batch=micro,
        save_every=updates,
        log_every=1,
        keep=2,
        sharded=sharded,
    )
    torch.manual_seed(1)
    stage = Prior(shape)
    codes = torch.randint(shape.codes, (8 * batch, shape.length), generator=torch.Generator().manual_seed(2))

    def data(step: int) -> CodeBatch:
        first = step % 8 * batch
        return CodeBatch(codes[first : first + batch][share(batch)].to(device), None)

    train(stage, data, config, out, device=device, progress=False)


def run(out: Path, updates: int, processes: int, *, sharded: bool, small: bool) -> list[dict[str, Any]]:
    """One training in processes of its own (a smoke run's in this one); its log, a record an update."""
    if processes == 0:
        child(out, updates, sharded=False, small=True)
        return [record for record in read(out / "log.jsonl") if "loss" in record]
    arguments = ["--child", str(out), "--updates", str(updates)]
    arguments += ["--sharded"] * sharded
    code = run_together(arguments, processes, program=(str(Path(__file__).resolve()),))
    if code:
        raise RuntimeError(f"training in {processes} processes ended with code {code}")
    return [record for record in read(out / "log.jsonl") if "loss" in record]


def measure(folder: Path, updates: int, processes: int, *, sharded: bool, small: bool) -> dict[str, Any]:
    """A run in one piece beside one that goes on from its state."""
    settings: Any = {"sharded": sharded, "small": small}
    whole = run(folder / "whole", updates, processes, **settings)
    state = f"step-{updates:07d}"
    shutil.copytree(folder / "whole" / "state" / state, folder / "resumed" / "state" / state)
    resumed = run(folder / "resumed", updates, processes, **settings)
    losses = {record["step"]: record["loss"] for record in whole}
    apart = [abs(losses[record["step"]] - record["loss"]) for record in resumed]
    if [record["step"] for record in resumed] != list(range(updates + 1, 2 * updates + 1)):
        raise RuntimeError("the second run did not go on from the state")
    seconds = [1 / record["samples_per_second"] for record in whole]  # of a sample
    batch, _ = SIZES["small" if small else "whole"]
    at = next(index for index, record in enumerate(whole) if record["step"] == updates)
    return {
        "processes": processes,
        "sharded": sharded,
        "first": apart[0],
        "largest": max(apart),
        "goal": 0.0 if not torch.cuda.is_available() else FIRST,
        "held_seconds": max(record["save_seconds"] for record in whole[at : at + 2]),
        "update_seconds": batch * sorted(seconds[2:at])[len(seconds[2:at]) // 2],
        "beside_seconds": batch * seconds[at + 1],
        "state_bytes": sum(p.stat().st_size for p in (folder / "whole" / "state" / state).iterdir()),
    }


def main() -> None:
    """All rows that this machine has GPUs for; on a CPU all of them."""
    options = arguments()
    small = options.smoke or not torch.cuda.is_available()  # a CPU takes small shapes
    if options.child is not None:
        if torch.cuda.is_available():
            faulthandler.dump_traceback_later(HANGS, exit=True)
        with joined():
            child(options.child, options.updates, sharded=options.sharded, small=small)
        leave()
    ways = [(1, False), (options.processes, False), (options.processes, True)]
    ways = [way for way, name in zip(ways, WAYS, strict=True) if name in options.rows]
    if options.smoke:
        ways = [(0, False)]
    elif torch.cuda.is_available():
        ways = [way for way in ways if way[0] <= torch.cuda.device_count()]
    end = time.monotonic() + options.seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, Any]] = []
    result = {**describe(device), "updates": options.updates, "rows": rows}
    for processes, sharded in ways:
        row: dict[str, Any] = {"processes": processes, "sharded": sharded}
        if time.monotonic() > end:
            row |= {"skipped": f"{options.seconds:.0f} seconds were over"}
        else:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    row = measure(Path(folder), options.updates, processes, sharded=sharded, small=small)
            except RuntimeError as error:
                row |= {"error": str(error)}
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        if options.out is not None:
            write_json_atomic(options.out, result)
    print(json.dumps(result, indent=2))
    if any("error" in row for row in rows):
        sys.exit("bench/resume.py: a row failed")
    if any(row["first"] > row["goal"] for row in rows if "first" in row):
        sys.exit("bench/resume.py: a resumed run is not the one that went on")


def arguments() -> argparse.Namespace:
    """The command line."""
    commands = parser(__doc__, seconds=400)
    commands.add_argument("--processes", type=int, default=2)
    commands.add_argument(
        "--rows", nargs="+", choices=WAYS, default=WAYS, help="those named only; --smoke has a row of its own"
    )
    commands.add_argument("--updates", type=int, default=6, help="n")
    commands.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    commands.add_argument("--sharded", action="store_true", help=argparse.SUPPRESS)
    return commands.parse_args()


if __name__ == "__main__":
    main()

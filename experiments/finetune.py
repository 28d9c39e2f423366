"""Fine-tuning the bundled model on pictures of one's own, beside the same training from new weights.

    python experiments/finetune.py --images PICTURES --under train --held-out-under test

Runs the commands of docs/finetune.md, and once more without the weights: the same codes, settings, updates
and order. OUT/finetune.json has both held-out losses by update, the seconds of each command, and what it was
made by; OUT/drawn and OUT/drawn-new have the same seeds drawn by both. --result names a second place for the
record. Every part that is done is left alone when the command is repeated.
"""

import argparse
import datetime
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from digit.errors import DigitError
from digit.files import write_json_atomic, write_text_atomic
from digit.run.main import run
from digit.training.log import read


def digit(*arguments: object) -> float:
    """Run one command; the seconds that it took. DigitError where it fails."""
    words, start = [str(argument) for argument in arguments], time.monotonic()
    print(f"$ digit {shlex.join(words)}", flush=True)
    if run(words) != 0:
        raise DigitError(f"`digit {shlex.join(words)}` failed: see above")
    return time.monotonic() - start


def without_start(settings: str) -> str:
    """The file of settings of a run, without the weights that it started from."""
    return "".join(line for line in settings.splitlines(True) if not line.startswith("init-from"))


def losses(folder: Path) -> dict[str, float]:
    """The held-out loss by update."""
    return {
        str(line["step"]): line["held_out_loss"]
        for line in read(folder / "log.jsonl")
        if "held_out_loss" in line
    }


def made_by() -> dict[str, Any]:
    """Commit, date, command and device."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip() or None,
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(
            ["python", "experiments/finetune.py", *(Path(each).name for each in sys.argv[1:])]
        ),
        "device": f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }


def finetune(given: argparse.Namespace) -> dict[str, Any]:
    """All commands, and the record."""
    out: Path = given.out
    seconds: dict[str, float] = {}
    for name, under, num, views in (
        ("codes", given.under, given.num, 2),
        ("held-out", given.held_out_under, given.held_out_num, 1),
    ):
        more = ("--under", under) if under else ()
        seconds[name] = digit(
            *("tokenize", "--images", given.images, *more, "--num", num, "--views", views),
            *("--tokenizer", given.model, "--vqgan", given.model, "--out", out / name, "--device", "cpu"),
        )
    training = ("--held-out", out / "held-out", "--evaluate-every", given.evaluate_every)
    training += ("--steps", given.steps, "--batch", given.batch, "--lr", given.lr, "--warmup", given.warmup)
    training += ("--schedule", "cosine", "--device", "cpu")
    start = ("--codes", out / "codes", "--init-from", given.model)
    seconds["prior"] = digit("train", "prior", *start, *training, "--out", out / "prior")
    file = out / "new.toml"
    write_text_atomic(file, without_start((out / "prior" / "settings.toml").read_text(encoding="utf-8")))
    seconds["new prior"] = digit("train", "prior", "--config", file, "--out", out / "prior-new")
    for prior, model, drawn in (("prior", "model", "drawn"), ("prior-new", "model-new", "drawn-new")):
        best = out / prior / "best"
        parts = [word for part in ("renderer", "vqgan", "tokenizer") for word in (f"--{part}", given.model)]
        digit("compose", "--prior", best, *parts, "--out", out / model)
        seconds[drawn] = digit(
            "sample", out / model, "--num", given.draw, "--out", out / drawn, "--device", "cpu"
        )
    record = {"losses": losses(out / "prior"), "losses from new weights": losses(out / "prior-new")}
    record |= {"seconds": {name: round(each, 1) for name, each in seconds.items()}, "made_by": made_by()}
    write_json_atomic(out / "finetune.json", record)
    if given.result is not None:
        write_json_atomic(given.result, record)
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="folder of class folders, zip or tar")
    parser.add_argument("--under", help="folder of the training pictures in it")
    parser.add_argument("--held-out-under", help="folder of the held-out pictures in it")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--result", type=Path)
    for name, value in (("num", 600), ("held-out-num", 100), ("steps", 60), ("batch", 16), ("draw", 40)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--evaluate-every", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-4)
    try:
        record = finetune(parser.parse_args(arguments))
    except DigitError as error:
        print(error, file=sys.stderr)
        return 2
    for step, loss in record["losses"].items():
        print(f"update {step}: {loss:.3f}, from new weights {record['losses from new weights'][step]:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

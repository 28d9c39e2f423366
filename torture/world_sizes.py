"""T4: a training that goes on with another number of processes (gloo): 1 -> 2 -> 4 -> 1."""

import random
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from digit.data.codes import CodeData, Codes
from digit.distributed import joined, rank
from digit.training import checkpoint
from digit.training.config import OptimizerConfig
from digit.training.log import read
from torture import training
from torture.children import together
from torture.outcome import About, Outcome

ABOUT = About(
    what="a training (micro-batches of 2) that goes on with 1, 2 or 4 processes (gloo), changed three times "
    "at random steps, beside one process; CPU",
    goal="the same order of samples; weights within float32's tolerance of reductions (1e-5 relative)",
    full=20,
    short=1,
)
STEPS = 20
# A large eps: some gradients are zero but for rounding, of which Adam would make whole steps.
CONFIG = replace(
    training.CONFIG,
    micro_batch=2,  # each draws its dropout, whichever process it falls to
    ema=None,
    log_every=1,
    optimizer=OptimizerConfig(lr=1e-2, warmup=1, schedule="constant", eps=1e-4),
)


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` runs: 1, 2, 4 and 1 processes, then three numbers by lot."""
    outcome, draw = Outcome(), random.Random(seed)
    codes, worst = training.make_data(folder), 0.0
    changes, out = 0, folder / "run"

    def piece(steps: int, processes: int, place: Path) -> bool:
        def work(_: int) -> int:
            with joined():
                return training.train_prior(codes, place, replace(CONFIG, steps=steps))

        return together(processes, work) == [0] * processes

    for i in range(cases):
        sizes = [1, 2, 4, 1] if i == 0 else [draw.choice((1, 2, 4)) for _ in range(4)]
        ends = [*sorted(draw.sample(range(3, STEPS), 3)), STEPS]
        case = f"run {i}, {sizes} processes up to the steps {ends}"
        whole = folder / "whole"
        for place, numbers in ((whole, [1] * 4), (out, sizes)):
            for end, processes in zip(ends, numbers, strict=True):
                outcome.check(
                    piece(end, processes, place), f"{case}: {processes} processes up to {end} failed"
                )
        changes += sum(a != b for a, b in pairwise(sizes))
        one, other = (checkpoint.load(checkpoint.path_of(place / "state", STEPS)) for place in (whole, out))
        for name, tensor in one.model.items():
            apart = float((tensor - other.model[name]).abs().max() / tensor.abs().max().clamp_min(1e-3))
            worst = max(worst, apart)
            outcome.check(apart < 1e-5, f"{case}: {name} is {apart:.1e} apart")
        losses = [
            [(row["step"], row["loss"]) for row in read(place / "log.jsonl") if "loss" in row]
            for place in (whole, out)
        ]
        outcome.check(
            [step for step, _ in losses[0]] == [step for step, _ in losses[1]], f"{case}: other steps"
        )
        for (step, a), (_, b) in zip(*losses, strict=False):
            outcome.check(abs(a - b) < 1e-5 * abs(a), f"{case}: the loss at {step} is {a} and {b}")
        outcome.cases += 1
        shutil.rmtree(whole)
        shutil.rmtree(out)
    batches = [batches_of(codes, processes) for processes in (1, 2, 4)]
    same = all(torch.equal(batches[0], other) for other in batches)
    outcome.check(same, "what 1, 2 and 4 processes are given is not the same in the same order")
    outcome.figures = {"changes": changes, "weights apart, relative": worst}
    return outcome


def batches_of(codes: Path, processes: int) -> Tensor:
    """The codes of six batches, put together from what each of several processes is given."""
    place = codes.parent / "shares"
    place.mkdir(exist_ok=True)

    def work(_: int) -> int:
        with joined():
            data = CodeData(Codes(codes), batch_size=8)
            rows = torch.stack([data(step).codes for step in range(6)])
            (place / f"{rank()}").write_bytes(rows.numpy().tobytes())
        return 0

    together(processes, work)
    parts = [
        np.fromfile(place / f"{number}", np.int64).reshape(6, 8 // processes, -1)
        for number in range(processes)
    ]
    return torch.from_numpy(np.concatenate(parts, axis=1))

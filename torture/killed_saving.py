"""T2: kill -9 while states are being saved, back to back."""

import os
import random
import time
from pathlib import Path

import torch

from digit.training import checkpoint
from torture.children import Child
from torture.outcome import About, Outcome

ABOUT = About(
    what="a process that saves states (2 x 1 MB) without pause, killed at random times, again and again",
    goal="1,000 kills: 0 unreadable, the newest whole state at most one save old, 0 leftovers after a start",
    full=1000,
    short=25,
)


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` kills."""
    outcome, draw = Outcome(), random.Random(seed)
    tensors = {"w": torch.randn(250_000)}
    state, newest, swept, saves = folder / "state", 0, 0, 0

    def save_on_and_on(pipe: int) -> None:
        with checkpoint.hold(state):
            step = newest
            while True:
                step += 1
                checkpoint.save(state, step, model=tensors, optimizer=tensors, state={}, keep=2)
                os.write(pipe, b"%d\n" % step)

    for i in range(cases):
        child = Child(save_on_and_on)
        told = [child.line()] if i % 2 else []  # half of the kills come within the first save
        time.sleep(draw.random() * 0.1)
        child.kill()
        told += child.read().decode().split()
        child.close()
        saves += len(told)
        swept += len(list(state.glob(".tmp-*"))) if state.exists() else 0
        before = max([newest, *map(int, told)])
        with checkpoint.hold(state):
            left = list(state.glob(".tmp-*"))
            outcome.check(not left, f"kill {i} left {left[:2]} after a start")
            found = checkpoint.load_newest(state, warn=outcome.lost)
        step = 0 if found is None else found.step
        outcome.check(step >= before, f"kill {i}: state {before} was saved and {step} is the newest")
        outcome.check(step <= before + 1, f"kill {i}: a state {step} after {before}")
        newest = max(newest, step)
        outcome.cases += 1
    checkpoint.save(state, newest + 1, model=tensors, optimizer=tensors, state={}, keep=2)
    kept = [path.name for path in state.iterdir() if path.name != ".lock"]
    outcome.check(len(kept) == 2, f"after a save that was not killed there are {kept}")
    outcome.figures = {"saves": saves, "half-written states swept": swept}
    return outcome

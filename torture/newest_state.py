"""T6: another process reads the newest state a thousand times a second while states come and writers die."""

import os
import random
import time
from pathlib import Path

import torch

from digit.errors import DigitError
from digit.training import checkpoint
from torture.children import Child
from torture.outcome import About, Outcome

ABOUT = About(
    what="the newest state read every millisecond while a process saves without pause and is often killed",
    goal="100 saves with kills: never an incomplete state",
    full=300,
    short=30,
)


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """Read while at least `cases` saves are made."""
    outcome, draw = Outcome(), random.Random(seed)
    state, tensors = folder / "state", {"w": torch.randn(2000)}
    reads = kills = newest = saves = 0

    def save_on_and_on(pipe: int) -> None:
        with checkpoint.hold(state):
            for step in range(newest + 1, newest + 10**6):
                checkpoint.save(state, step, model=tensors, optimizer=tensors, state={}, keep=2)
                os.write(pipe, b".")

    while saves < cases:
        child = Child(save_on_and_on)
        os.read(child.reader, 1)  # the first save
        until = time.monotonic() + draw.random() * 0.2
        while time.monotonic() < until:
            found = checkpoint.paths(state)
            if found:
                reads += 1
                try:
                    step = checkpoint.load(found[-1]).step
                    outcome.check(step >= newest, f"after state {newest} came {step}")
                    newest = max(newest, step)
                except DigitError as error:
                    # Two saves later it goes: a reader that was held up may still look for it.
                    outcome.check(not found[-1].exists(), f"{found[-1].name} is incomplete ({error})")
            time.sleep(0.001)
        child.kill()
        saves += len(child.read()) + 1
        child.close()
        kills += 1
    outcome.cases = saves
    outcome.figures = {"reads": reads, "kills": kills}
    return outcome

"""T5: SIGTERM and SIGINT in every phase of a training."""

import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from digit.training import update
from digit.training.log import read_status
from torture import training
from torture.children import Child
from torture.outcome import About, Outcome

ABOUT = About(
    what="a training sent SIGTERM or SIGINT while it starts, compiles, updates, waits for data, measures, "
    "draws, and saves, then started again until it is done; CPU",
    goal="7 phases x 20: saved and gone within 30 s by code 143 or 130, <= 1 step lost, then equal weights",
    full=140,
    short=6,
)
PHASES = ("start", "step", "data", "evaluation", "sampling", "saving", "compile")
LONG = 0.1  # seconds that a phase is drawn out, so that the signal meets it
CONFIG = replace(training.CONFIG, steps=12, evaluate_every=4, sample_every=4, save_every=4, log_every=2)
ENDS = {signal.SIGTERM: (training.TERMINATED, -signal.SIGTERM), signal.SIGINT: (training.INTERRUPTED,)}


class Phases:
    """Tells through a pipe which phase begins, and draws it out once."""

    def __init__(self, pipe: int, wanted: str, at: int) -> None:
        """The phase and, where it comes again and again, its step."""
        self.pipe, self.wanted, self.at, self.step = pipe, wanted, at, 0
        self.told = False

    def tell(self, phase: str) -> None:
        """If this is the phase, say so with the step, and take a while."""
        if phase == self.wanted and self.step >= self.at and not self.told:
            self.told = True
            os.write(self.pipe, b"%d\n" % self.step)
            until = time.monotonic() + LONG
            while time.monotonic() < until:
                time.sleep(0.002)

    def data(self, usual: Any, step: int) -> Any:
        """A batch, perhaps late."""
        self.step = step
        self.tell("data")
        self.tell("compile")
        return usual(step)

    def stage(self, prior: Any) -> Any:
        """The stage with a loss that may be late."""
        loss = prior.loss

        def slow(batch: Any) -> Any:
            self.tell("step")
            return loss(batch)

        if self.wanted == "step":
            prior.loss = slow
        return prior

    def evaluate(self, stage: Any, step: int) -> Any:
        """A measurement."""
        self.step = step
        self.tell("evaluation")
        yield "score", 1.0

    def picture(self, stage: Any, step: int) -> Image.Image:
        """A drawing."""
        self.step = step
        self.tell("sampling")
        return Image.new("RGB", (4, 4))

    def saved(self) -> None:
        """Behind the writing of an artifact, in its thread."""
        self.tell("saving")


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` signals, the phases in turn; compiling only in a full run."""
    outcome, draw = Outcome(), random.Random(seed)
    codes, out = training.make_data(folder), folder / "run"
    phases = PHASES if cases > ABOUT.short else PHASES[:-1]
    training.warm(codes, folder / "warm")

    def work(pipe: int, phase: str, at: int) -> int:
        told = Phases(pipe, phase, at)
        if phase == "start":
            told.tell("start")
        options = {"data": told.data, "stage": told.stage, "saved": told.saved}
        if phase == "compile":  # in this child only: a CPU is not compiled for unasked
            update.usable = lambda device: True
        return training.train_prior(
            codes,
            out,
            CONFIG,
            **options,
            evaluate=told.evaluate,
            picture=told.picture,
        )

    child = Child(lambda pipe: work(pipe, "none", 0))
    outcome.check(child.wait() == 0, f"the run of one piece ended with {child.code}")
    child.close()
    expected, slowest = training.weights(out), 0.0
    shutil.rmtree(out)
    for i in range(cases):
        phase, number = phases[i % len(phases)], draw.choice(list(ENDS))
        at = 0 if phase in ("start", "compile") else draw.randrange(CONFIG.steps)
        if phase in ("evaluation", "sampling", "saving"):
            at = draw.choice((4, 8))  # at the end nothing is left to be broken off
        child = Child(lambda pipe, phase=phase, at=at: work(pipe, phase, at))
        line = child.line()
        step, begun = int(line or -1), time.monotonic()
        time.sleep(draw.random() * (2.0 if phase == "compile" else LONG))
        child.signal(number)
        code = child.wait(60)
        seconds = time.monotonic() - begun
        case = f"signal {i}, {number.name} in {phase} at step {step}"
        child.kill()
        said = child.read().decode()[-300:]
        child.close()
        slowest = max(slowest, seconds)
        ends = (*ENDS[number], 0) if phase == "compile" else ENDS[number]
        if phase == "start" and number == signal.SIGINT:
            ends = (*ends, 70)  # Python's own KeyboardInterrupt before the training has begun
        outcome.check(code in ends, f"{case}: ended with {code} {said}")
        outcome.check(seconds < 30, f"{case}: took {seconds:.0f} s")
        newest = training.check_folder(outcome, out, case) if phase != "start" else -1
        if phase != "start" and step > 0:
            outcome.check(newest >= step - 1, f"{case}: the newest state is of step {newest}")
            status = read_status(out)
            told = status is not None and status.reason in ("interrupted", "finished")
            outcome.check(told, f"{case}: the status is {status}")
        again = Child(lambda pipe: work(pipe, "none", 0))
        code = again.wait()
        said = again.read().decode()[-300:]
        again.close()
        outcome.check(code == 0, f"{case}: started again it ended with {code} {said}")
        if phase != "compile":  # compiled updates round otherwise
            same = code == 0 and training.weights(out) == expected
            outcome.check(same, f"{case}: other weights at the end")
        shutil.rmtree(out, ignore_errors=True)
        outcome.cases += 1
    outcome.figures = {"phases": len(phases), "slowest, s": slowest}
    return outcome

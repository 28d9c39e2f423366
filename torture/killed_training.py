"""T1: kill -9 at random times in a real training, start it again, and compare the weights at its end."""

import random
import shutil
import signal
import time
from pathlib import Path

from digit.training.status import read_status
from torture import training
from torture.children import Child
from torture.outcome import About, Outcome

ABOUT = About(
    what="a training (prior, dropout, EMA, writing beside the updates) killed by SIGKILL at random times and "
    "started again until it is done; CPU",
    goal="100 runs of >= 3 kills: weights equal to those of one piece (sha256), 0 unreadable, 0 leftovers",
    full=100,
    short=2,
)
KILLS = 4  # at random times in a quarter of a whole run, the last in a half of it


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` runs."""
    outcome, draw = Outcome(), random.Random(seed)
    codes = training.make_data(folder)
    training.warm(codes, folder / "warm")
    begun = time.monotonic()
    whole = Child(lambda _: training.train_prior(codes, folder / "whole"))
    outcome.check(whole.wait() == 0, f"the run of one piece ended with {whole.code}")
    whole.close()
    seconds, expected = time.monotonic() - begun, training.weights(folder / "whole")
    out, kills, early = folder / "run", 0, 0
    for i in range(cases):
        before = -1
        for turn in range(KILLS):
            child = Child(lambda _: training.train_prior(codes, out))
            ended = child.wait(draw.random() * seconds / (2 if turn == KILLS - 1 else 4))
            child.signal(signal.SIGKILL)
            child.wait()
            child.close()
            kills += ended is None
            early += ended is not None
            outcome.check(ended in (None, 0), f"run {i} ended with {ended}")
            # What the next start would find; it alone may remove what is half written.
            found = [path for path in (out / "state").glob("step-*") if path.is_dir()]
            steps = [int(path.name.removeprefix("step-")) for path in found]
            outcome.check(max(steps, default=-1) >= before, f"run {i} went back from step {before}")
            before = max(steps, default=-1)
        child = Child(lambda _: training.train_prior(codes, out))
        code = child.wait()
        text = child.read().decode()[-300:] if code else ""
        child.close()
        outcome.check(code == 0, f"run {i}, after its kills, ended with {code} {text}")
        if code == 0:
            outcome.check(training.weights(out) == expected, f"run {i} has other weights")
            status = read_status(out)
            outcome.check(status is not None and status.finished, f"run {i} is not finished")
            training.check_folder(outcome, out, f"run {i}")
        outcome.cases += 1
        shutil.rmtree(out, ignore_errors=True)
    outcome.figures = {"kills": kills, "ended before their kill": early, "seconds of a whole run": seconds}
    return outcome

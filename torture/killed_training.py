"""T1: kill -9 at random times in a real training, start it again, and compare the weights at its end."""

import random
import shutil
import time
from pathlib import Path

from digit.training.log import read_status
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
KILLS = 4  # of each run, at random times; a run that ends before its third is made again


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
    out, kills, share, turn = folder / "run", 0, 0.3, 0
    while outcome.cases < cases and turn < 4 * cases:
        turn, before, killed = turn + 1, -1, 0
        case = f"run {turn}"
        while killed < KILLS:
            child = Child(lambda _: training.train_prior(codes, out))
            ended = child.wait(draw.random() * seconds * share)
            child.kill()
            child.close()
            if ended is not None:
                outcome.check(ended == 0, f"{case} ended with {ended}")
                share *= 0.8  # the machine has become faster
                break
            killed += 1
            # What the next start would find; it alone may remove what is half written.
            found = [path for path in (out / "state").glob("step-*") if path.is_dir()]
            newest = max((int(path.name.removeprefix("step-")) for path in found), default=-1)
            outcome.check(newest >= before, f"{case} went back from step {before}")
            before = newest
        child = Child(lambda _: training.train_prior(codes, out))
        code = child.wait()
        said = child.read().decode()[-300:] if code else ""
        child.close()
        outcome.check(code == 0, f"{case}, after its kills, ended with {code} {said}")
        if code == 0:
            outcome.check(training.weights(out) == expected, f"{case} has other weights")
            status = read_status(out)
            outcome.check(status is not None and status.finished, f"{case} is not finished")
            training.check_folder(outcome, out, case)
        outcome.cases += killed >= KILLS - 1
        kills += killed
        shutil.rmtree(out, ignore_errors=True)
    outcome.figures = {"kills": kills}
    return outcome

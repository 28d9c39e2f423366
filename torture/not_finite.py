"""T8: losses, gradients and weights that turn NaN or infinite in the midst of a training."""

import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from digit.errors import DigitError
from digit.prior import Prior
from digit.training import checkpoint
from digit.training.log import read
from torture import training
from torture.outcome import About, Outcome

ABOUT = About(
    what="NaN or infinity put into the loss, a gradient or a weight at random steps of a training: once, "
    "several times, or for as many updates in a row as end a run",
    goal="100 runs: single ones skipped and counted, many in a row end with the last good state, finite",
    full=100,
    short=4,
)
STEPS = training.CONFIG.steps


class Poison:
    """Makes what it is told not finite at the steps it is told."""

    def __init__(self, plan: dict[int, str], value: float) -> None:
        """`plan`: "loss", "gradient" or "weight" by step."""
        self.plan, self.value, self.step = plan, value, 0

    def data(self, usual: Callable[[int], Any], step: int) -> Any:
        """The batch of a step, which is noted."""
        self.step = step
        return usual(step)

    def stage(self, prior: Prior) -> Prior:
        """The stage whose loss obeys."""
        loss, weight = prior.loss, next(prior.parameters())
        weight.register_hook(lambda gradient: gradient * self.value if self.now() == "gradient" else gradient)

        def poisoned(batch: Any) -> torch.Tensor:
            if self.now() == "weight":
                self.plan.pop(self.step)
                with torch.no_grad():
                    weight.view(-1)[3] = self.value
            value = loss(batch)
            return value * self.value if self.now() == "loss" else value

        prior.loss = poisoned
        return prior

    def now(self) -> str | None:
        """What is due at this step."""
        return self.plan.get(self.step)


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` runs: two in four with single steps, one with many in a row, one with a weight."""
    outcome, draw = Outcome(), random.Random(seed)
    codes = training.make_data(folder)
    training.train_prior(codes, folder / "whole")
    expected = training.weights(folder / "whole")
    out, limit = folder / "run", training.CONFIG.skips
    skipped = ended = 0
    for i in range(cases):
        value = draw.choice((math.nan, math.inf, -math.inf))
        what = draw.choice(("loss", "gradient"))
        first = draw.randrange(1, STEPS - limit)
        if i % 4 < 2:
            plan = dict.fromkeys(draw.sample(range(0, STEPS, 2), draw.randrange(1, 5)), what)
        else:
            plan = dict.fromkeys(range(first, first + limit), what) if i % 4 == 2 else {first: "weight"}
        case = f"run {i}, {value} in {plan}"
        singles, poison = i % 4 < 2, Poison(dict(plan), value)
        try:
            training.train_prior(codes, out, data=poison.data, stage=poison.stage)
            outcome.check(singles, f"{case}: went on")
        except DigitError as error:
            ended += 1
            outcome.check(not singles, f"{case}: {error}")
            outcome.check("diverged" in str(error) and "\n" not in str(error), f"{case}: {error}")
        found = training.check_folder(outcome, out, case)
        if found >= 0:
            tensors = checkpoint.load(checkpoint.path_of(out / "state", found))
            for name, tensor in (*tensors.model.items(), *tensors.optimizer.items()):
                outcome.check(bool(tensor.isfinite().all()), f"{case}: {name} of state {found} is not finite")
        if singles:
            told = max((each.get("skipped", 0) for each in read(out / "log.jsonl")), default=0)
            outcome.check(told == len(plan), f"{case}: {told} were counted as skipped")
            skipped += int(told)
        else:
            training.train_prior(codes, out)
            # Updates that were skipped before the state was saved stay skipped.
            same = training.weights(out) == expected or (i % 4 == 2 and found > first)
            outcome.check(same, f"{case}: gone on from step {found} to other weights than a run without it")
        outcome.cases += 1
        shutil.rmtree(out)
    outcome.figures = {"updates skipped": skipped, "runs ended": ended}
    return outcome

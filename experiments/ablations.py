"""The paper's ablations on CIFAR-10 (figures 3a, 4a and its table): encoder, K, size and steps of the prior.

    python experiments/ablations.py --images cifar10-train.zip --test cifar10-test.zip \
        --out runs/ablations --seconds 840

Trains encoders of the same shape with one objective each (MAE, MoCo v3, iBOT, DINO), clusters their features,
and trains a small prior and a masked renderer on the codes of each, all for the same number of steps; the
VQGAN is the bundled one. A classifier trained in the same run measures the distance. Results come as
`results/ablations.json`, `.md` (tables in the paper's form, its rows beside ours) and `.png` (what predicts
the distance best).

Cost: the seconds asked for, on one H200; the longer, the more steps. Every part that is done is kept: the
same command goes on where the last one stopped. `--parts` does a part alone, in this order: pictures,
classifier, encoders, plan, rows, report; `--limit` stops this call earlier than the whole budget.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import classifier
import torch
from ablation.encoders import train_encoder
from ablation.pictures import open_sets, prepare
from ablation.plan import FULL, OBJECTIVES, SMOKE, Scale, TokenizerPlan, priors_of, shares, tokenizers
from ablation.report import write_report
from ablation.rows import measure_tokenizer
from ablation.stages import equal_steps

from digit.files import read_json, write_json_atomic
from digit.run.progress import say
from digit.training.status import read_status

PARTS = ("pictures", "classifier", "encoders", "plan", "rows", "report")
OVERHEAD = 12.0  # seconds a row for sampling and probes, for the plan


def main(arguments: list[str] | None = None) -> int:
    """Do the parts that are not done; 0 when all that was asked for is, 3 when time ran out."""
    options = parse(arguments)
    run = Run(options)
    for part in options.parts or PARTS:
        name, _, only = part.partition(":")
        getattr(run, name)(*([only] if only else []))
    for line in run.unfinished:
        say(line)
    return 3 if run.unfinished else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="training pictures in one folder per class")
    add("--test", type=Path, required=True, help="pictures to measure on, in the same folders")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--seconds", type=float, default=840, help="budget of the whole; shares of it go to each part")
    add("--limit", type=float, help="seconds after which this call stops; the whole budget if left out")
    add("--parts", nargs="*", help=f"only these, of {', '.join(PARTS)}; encoders:mae, rows:NAME do one alone")
    add("--workers", type=int, default=3, help="processes that train priors side by side on the device")
    add("--vqgan", type=Path, help="artifact that all rows share; the bundled CIFAR-10 one if left out")
    add("--main", default="distilled", help="encoder of the rows for K, size and steps")
    add("--steps", type=int, help="of every prior and renderer, instead of what fits the budget")
    add("--encoder-steps", type=int, help="of every encoder, instead of what fits the budget")
    add("--results", type=Path, help="folder for the report; OUT/results if left out")
    add("--smoke", action="store_true", help="everything tiny, for a test")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


class Run:
    """One call: what was asked for, what is loaded, and when it must end."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Nothing is read before the first part needs it."""
        self.options, self.out = options, options.out
        self.scale: Scale = SMOKE if options.smoke else FULL
        self.device = torch.device(options.device)
        self.deadline = time.monotonic() + (options.limit or options.seconds)
        self.shares = shares(options.seconds)
        self.unfinished: list[str] = []
        self._sets = None

    @property
    def left(self) -> float:
        """Seconds until this call must end."""
        return self.deadline - time.monotonic()

    @property
    def sets(self):
        """The pictures on the device."""
        self.pictures()
        if self._sets is None:
            self._sets = open_sets(self.out, self.device, self.options.vqgan)
        return self._sets

    def plans(self) -> list[TokenizerPlan]:
        """All tokenizers, the main one first."""
        return tokenizers(self.scale, self.options.main, self.sets.vqgan.config.codes)

    def pictures(self) -> None:
        """Decode once."""
        if not (self.out / "pictures.safetensors").exists():
            prepare(self.options.images, self.options.test, self.out, self.device, self.options.vqgan)

    def classifier(self) -> None:
        """The judge of all rows."""
        out, (steps, batch, width) = self.out / "classifier", self.scale.classifier
        if (out / "artifact" / "config.json").exists() and (status := read_status(out)) and status.finished:
            return
        if self._late("classifier"):
            return
        sizes = ["--steps", str(steps), "--batch", str(batch), "--width", str(width)]
        files = ["--images", str(self.options.images), "--test", str(self.options.test), "--out", str(out)]
        limit = min(self.left, 2 * self.shares["classifier"])
        classifier.main([*files, *sizes, "--device", str(self.device), "--limit", str(limit)])
        status = read_status(out)
        if status is None or not status.finished:
            self.unfinished.append("the classifier is unfinished: repeat the command")

    def encoders(self, only: str | None = None) -> None:
        """One after the other: each has the device for itself for the same time."""
        for objective in [only] if only else OBJECTIVES:
            out = self.out / "encoders" / objective
            if (out / "trained.json").exists() or self._late(f"encoder {objective}"):
                continue
            seconds = self.shares["encoder"]
            how = {
                "seconds": seconds,
                "limit": min(self.left, 1.3 * seconds),
                "steps": self.options.encoder_steps,
            }
            if not train_encoder(objective, self.sets, out, self.scale, **how):
                self.unfinished.append(f"the encoder {objective} is unfinished: repeat the command")

    def plan(self) -> None:
        """The steps of priors and renderers: fixed once, the same for every row."""
        if (self.out / "plan.json").exists():
            return
        plans = self.plans()
        rows = [row for plan in plans for row in priors_of(plan, plans)]
        found = {"steps": self.options.steps}
        if self.options.steps is None:
            gain = 1.2 if self.options.workers > 1 else 1.0  # processes fill each other's gaps
            seconds = gain * self.shares["rows"]
            found = equal_steps(self.sets, rows, self.scale, seconds=seconds, overhead=OVERHEAD)
        write_json_atomic(self.out / "plan.json", found)

    def rows(self, only: str | None = None) -> None:
        """Every tokenizer with its priors; `only` names one. Several processes take one tokenizer each."""
        self.plan()
        plans = self.plans()
        if only is not None:
            steps = int(read_json(self.out / "plan.json")["steps"])
            plan = next(plan for plan in plans if plan.name == only)
            if not measure_tokenizer(
                plan, plans, self.sets, self.out, self.scale, steps=steps, deadline=self.deadline
            ):
                self.unfinished.append(f"the rows of {only} are unfinished: repeat the command")
            return
        waiting = [plan for plan in plans if not (self.out / "rows" / plan.name / "done.json").exists()]
        ready = [plan for plan in waiting if self._has_encoder(plan)]
        if self.options.workers <= 1:
            for plan in ready:
                if not self._late(f"rows of {plan.name}"):
                    self.rows(plan.name)
            return
        self._sets = None  # the memory is for the processes
        self._side_by_side(ready)

    def report(self) -> None:
        """Tables and plot of the rows that are there."""
        plans = self.plans()
        rows = [row for plan in plans for row in priors_of(plan, plans)]
        results = self.options.results or self.out / "results"
        missing = write_report(rows, self.out, results, self.device)
        self.unfinished += [f"the row {name} is not measured yet" for name in missing]

    def _has_encoder(self, plan: TokenizerPlan) -> bool:
        if plan.encoder not in OBJECTIVES or (self.out / "encoders" / plan.encoder / "trained.json").exists():
            return True
        self.unfinished.append(f"the rows of {plan.name} wait for their encoder")
        return False

    def _late(self, what: str) -> bool:
        if self.left > 5:
            return False
        self.unfinished.append(f"no time was left for {what}: repeat the command")
        return True

    def _side_by_side(self, plans: list[TokenizerPlan]) -> None:
        """At most `workers` processes at once, each on one tokenizer, with its own log."""
        waiting, running = list(plans), {}
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        while waiting or running:
            while waiting and len(running) < self.options.workers and self.left > 5:
                plan = waiting.pop(0)
                with (self.out / "logs" / f"{plan.name}.log").open("a") as log:
                    running[plan.name] = subprocess.Popen(self._command(plan), stdout=log, stderr=log)
            if not running:  # time is up
                self.unfinished += [f"no time was left for rows of {plan.name}" for plan in waiting]
                return
            time.sleep(0.5)
            for name, process in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[name]
                    ended = "done" if code == 0 else f"ended with code {code}"
                    say(f"rows of {name}: {ended}, {self.left:.0f} s left")
                    if code != 0:
                        self.unfinished.append(f"the rows of {name} are unfinished, see logs/{name}.log")

    def _command(self, plan: TokenizerPlan) -> list[str]:
        options = self.options
        command = [sys.executable, __file__, "--parts", f"rows:{plan.name}", "--workers", "1"]
        command += ["--images", str(options.images), "--test", str(options.test), "--out", str(options.out)]
        command += ["--seconds", str(options.seconds), "--limit", str(self.left), "--main", options.main]
        command += [] if options.vqgan is None else ["--vqgan", str(options.vqgan)]
        return [*command, "--device", str(self.device), *(["--smoke"] if options.smoke else [])]


if __name__ == "__main__":
    sys.exit(main())

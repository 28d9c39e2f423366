"""The paper's ablations on CIFAR-10 (figures 3a, 3b, 4a and its table): encoder, K, size and steps.

    python experiments/ablations.py --images cifar10-train.zip --test cifar10-test.zip \
        --out runs/ablations --seconds 540 --devices 2 --workers 4 \
        --encoder-steps 2500 --steps 3000 --renderer-steps 5000

Trains encoders of the same shape with one objective each (MAE, MoCo v3, iBOT, DINO), clusters their features,
and trains a small prior and a masked renderer on the codes of each, all priors for the same number of updates
and all renderers too; the VQGAN is the bundled one. A classifier trained in the same run measures the
distance. Results come as `results/ablations.json`, `.md` (tables in the paper's form, its rows beside ours),
`.png` (what predicts the distance best) and `probes.png` (probes by layer and K).

Cost: the seconds asked for, on one GPU or on several (--devices); without --steps and --encoder-steps as many
updates as fit, by the pace that is measured. Every part that is done is kept: the same command goes on where
the last one stopped. `--parts` does parts alone, in this order: pictures, plan, classifier, encoders, rows,
report; `--limit` stops this call earlier than the whole budget.
"""

import argparse
import itertools
import sys
import time
from functools import partial
from pathlib import Path

import classifier
import torch
from ablation.encoders import train_encoder
from ablation.measures import Judge
from ablation.pictures import Sets, open_sets, prepare
from ablation.plan import (
    FULL,
    OBJECTIVES,
    SMOKE,
    UPDATES,
    Scale,
    TokenizerPlan,
    priors_of,
    renderer_steps,
    shares,
    tokenizers,
)
from ablation.report import write_report
from ablation.rows import measure_tokenizer
from ablation.schedule import Task, side_by_side
from ablation.stages import equal_steps
from devices import check_devices

from digit.errors import DigitError, on_command_line
from digit.files import read_json, write_json_atomic
from digit.progress import say
from digit.training.log import read_status

PARTS = ("pictures", "plan", "classifier", "encoders", "rows", "report")
SHARED = ("classifier", "encoders", "rows")  # parts that processes do side by side
OVERHEAD = 12.0  # seconds a row for sampling and probes, for the plan


@on_command_line()
def main(arguments: list[str] | None = None) -> int:
    """Do the parts that are not done; 0 when all that was asked for is, 3 when time ran out."""
    options = parse(arguments)
    check_devices(options.devices, options.device)
    run, several = Run(options), options.workers * options.devices > 1
    for shared, parts in itertools.groupby(options.parts or PARTS, lambda p: several and p in SHARED):
        if shared:
            run.together(list(parts))
            continue
        for part in parts:
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
    add("--until", type=float, help="the same as a time in seconds since 1970")
    add("--parts", nargs="*", help=f"only these, of {', '.join(PARTS)}; encoders:mae, rows:NAME do one alone")
    add("--devices", type=int, default=1, help="GPUs that share encoders and tokenizers")
    add("--workers", type=int, default=3, help="processes side by side on each of them")
    add("--vqgan", type=Path, help="artifact that all rows share; the bundled CIFAR-10 one if left out")
    add("--main", default="distilled", help="encoder of the rows for K, size and steps")
    add("--steps", type=int, help="updates of every prior, instead of what fits the budget")
    add("--renderer-steps", type=int, help="updates of every renderer; five thirds of --steps if left out")
    add(
        "--encoder-steps",
        type=int,
        help="updates of iBOT and DINO (MoCo v3 and MAE: 1.5 and 3 times as many)",
    )
    add("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    add("--wait", action="store_true", help="for the classifier of another process")
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
        limit = options.limit or options.seconds
        if options.until is not None:
            limit = options.until - time.time()
        self.deadline = time.monotonic() + limit
        self.shares = shares(options.seconds * options.devices)
        self.unfinished: list[str] = []
        self._sets: Sets | None = None

    @property
    def left(self) -> float:
        """Seconds until this call must end."""
        return self.deadline - time.monotonic()

    @property
    def sets(self) -> Sets:
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
        steps, batch, width = self.scale.classifier
        if self._judged() or self._late("classifier"):
            return
        out = self.out / "classifier"
        sizes = ["--steps", str(steps), "--batch", str(batch), "--width", str(width)]
        files = ["--images", str(self.options.images), "--test", str(self.options.test), "--out", str(out)]
        classifier.main([*files, *sizes, "--device", str(self.device), "--limit", str(self.left)])
        if not self._judged():
            self.unfinished.append("the classifier is unfinished: repeat the command")

    def encoders(self, only: str | None = None) -> None:
        """One after the other, or the one called `only`."""
        for objective in [only] if only else OBJECTIVES:
            if self._encoded(objective) or self._late(f"encoder {objective}"):
                continue
            steps = self.options.encoder_steps
            how = {
                # Beside others it takes as much longer, at most.
                "seconds": self.shares["encoder"] * self.options.workers / self.options.devices,
                "limit": self.left,
                "steps": None if steps is None else round(steps * UPDATES.get(objective, 1)),
            }
            out = self.out / "encoders" / objective
            if not train_encoder(objective, self.sets, out, self.scale, **how):
                self.unfinished.append(f"the encoder {objective} is unfinished: repeat the command")

    def plan(self) -> None:
        """The updates of priors and renderers: fixed once, the same for every row."""
        if (self.out / "plan.json").exists():
            return
        options, plans = self.options, self.plans()
        rows = [row for plan in plans for row in priors_of(plan, plans)]
        if options.steps is None:
            seconds, slow = self.shares["rows"], OVERHEAD
            found = equal_steps(self.sets, rows, self.scale, seconds=seconds, overhead=slow)
        else:
            found = {"steps": options.steps, "renderer_steps": renderer_steps(options.steps)}
        if options.renderer_steps is not None:
            found["renderer_steps"] = options.renderer_steps
        write_json_atomic(self.out / "plan.json", found)

    def rows(self, only: str | None = None) -> None:
        """Every tokenizer with its priors, one after the other, or the one called `only`."""
        self.plan()
        plans, updates = self.plans(), read_json(self.out / "plan.json")
        for plan in [plan for plan in plans if only in (None, plan.name)]:
            if self._measured(plan) or self._late(f"rows of {plan.name}"):
                continue
            if plan.encoder in OBJECTIVES and not self._encoded(plan.encoder):
                self.unfinished.append(f"the rows of {plan.name} wait for their encoder")
                continue
            how = {"updates": updates, "deadline": self.deadline, "compile": self.options.compile}
            if not measure_tokenizer(plan, plans, self.sets, self.out, self.scale, judge=self._judge, **how):
                self.unfinished.append(f"the rows of {plan.name} are unfinished: repeat the command")

    def together(self, parts: list[str]) -> None:
        """Those of `parts` side by side on all devices, each encoder and each tokenizer in a process."""
        plans = self.plans()
        self._sets = None  # the memory is for the processes
        tasks = []
        if "classifier" in parts:
            tasks.append(Task("classifier", self._command("classifier"), done=self._judged))
        if "encoders" in parts:
            for name in ("ibot", "dino", "mocov3", "mae"):  # the slowest first
                part = f"encoders:{name}"
                tasks.append(Task(part, self._command(part), done=partial(self._encoded, name)))
        if "rows" in parts:
            own = [plan for plan in plans if plan.encoder in OBJECTIVES]  # before those that can wait
            for plan in [*plans[:2], *own, *(plan for plan in plans[2:] if plan not in own)]:
                needs = f"encoders:{plan.encoder}" if plan in own else None
                if plan in own and "encoders" not in parts and not self._encoded(plan.encoder):
                    self.unfinished.append(f"the rows of {plan.name} wait for their encoder")
                    continue
                part, done = f"rows:{plan.name}", partial(self._measured, plan)
                tasks.append(Task(part, self._command(part), needs, done))
        options = {"devices": self.options.devices, "workers": self.options.workers}
        self.unfinished += side_by_side(tasks, **options, left=lambda: self.left, logs=self.out / "logs")

    def report(self) -> None:
        """Tables and plot of the rows that are there."""
        plans = self.plans()
        rows = [row for plan in plans for row in priors_of(plan, plans)]
        results = self.options.results or self.out / "results"
        missing = write_report(rows, self.out, results, self.device)
        self.unfinished += [f"the row {name} is not measured yet" for name in missing]

    def _judge(self) -> Judge | None:
        """The judge; with --wait, None where it did not come in time."""
        while self.options.wait and not self._judged() and self.left > 0:
            time.sleep(0.5)
        if self._judged():
            return Judge(self.out, self.sets)
        if self.options.wait:
            return None
        raise DigitError(f"{self.out} has no classifier yet: do --parts classifier first")

    def _judged(self) -> bool:
        out = self.out / "classifier"
        status = read_status(out)
        return (out / "artifact" / "config.json").exists() and status is not None and status.finished

    def _encoded(self, objective: str) -> bool:
        return (self.out / "encoders" / objective / "trained.json").exists()

    def _measured(self, plan: TokenizerPlan) -> bool:
        return (self.out / "rows" / plan.name / "done.json").exists()

    def _late(self, what: str) -> bool:
        if self.left > 5:
            return False
        self.unfinished.append(f"no time was left for {what}: repeat the command")
        return True

    def _command(self, part: str) -> list[str]:
        """A process's, which does one part and waits for the judge."""
        options, limit = self.options, self.left - 2
        command = [sys.executable, __file__, "--parts", part, "--workers", "1", "--wait"]
        command += ["--images", str(options.images), "--test", str(options.test), "--out", str(options.out)]
        command += ["--seconds", str(options.seconds), "--main", options.main]
        command += [] if options.vqgan is None else ["--vqgan", str(options.vqgan)]
        if options.encoder_steps is not None:
            command += ["--encoder-steps", str(options.encoder_steps)]
        command += ["--compile" if options.compile else "--no-compile"]
        command += ["--until", str(time.time() + limit)]
        return [*command, "--device", str(self.device), *(["--smoke"] if options.smoke else [])]


if __name__ == "__main__":
    sys.exit(main())

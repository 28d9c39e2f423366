"""T15: the same seeds drawn in batches of other sizes, in parts, and by other numbers of processes."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from digit.distributed import joined
from digit.evaluation.pictures import open_npz
from digit.files import read_json, sha256_file
from digit.run.main import run as command
from torture import tiny
from torture.children import together
from torture.outcome import About, Outcome

ABOUT = About(
    what="64 seeds of a tiny model and 24 of the bundled one drawn by `digit sample` in batches of 1 to 64, "
    "in part, and by 1, 2 and 4 processes; CPU, float32",
    goal="every code identical; with 1, 2 and 4 processes the .npz byte for byte",
    full=64,
    short=1,
)


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` sizes of batch for the tiny model; the bundled one too in a full run."""
    outcome, draw = Outcome(), random.Random(seed)
    stages = tiny.make_stages(folder / "stages")
    model = str(tiny.make_model(stages, folder / "model"))
    sizes = draw.sample(range(1, 65), min(cases, 64))
    drawn = Drawn(outcome, folder, model, 64)
    for size in sizes:
        drawn.compare(size)
    drawn.compare_parts(draw.choice(sizes))
    drawn.compare_processes(draw.choice((5, 16)))
    differing = drawn.differing
    if cases >= ABOUT.full:
        for renderer in ("autoregressive", "masked"):
            drawn = Drawn(outcome, folder, "cifar10", 24, "--renderer", renderer)
            for size in (1, 5):
                drawn.compare(size)
            drawn.compare_processes(4)
            differing += drawn.differing
    outcome.figures = {"sizes of batch": len(sizes), "values of pixels 1 of 255 apart": differing}
    return outcome


@dataclass
class Drawing:
    """What one command drew."""

    pixels: Tensor  # uint8
    codes: list[object]  # codes and VQ codes of each picture
    npz: str  # sha256


class Drawn:
    """What a model draws at once, to compare with."""

    def __init__(self, outcome: Outcome, folder: Path, model: str, count: int, *options: str) -> None:
        """Draw all in one batch."""
        self.outcome, self.folder, self.model, self.options = outcome, folder, model, options
        self.count, self.turn = count, 0
        self.differing = 0  # values of pixels that another size of batch rounds otherwise
        self.whole = self.draw(["--num", str(count), "--batch", "64"])

    def draw(self, more: list[str], processes: int = 1) -> Drawing | None:
        """Run the command; None, and a loss, if it fails. Nothing is left on the disk."""
        self.turn += 1
        out = self.folder / f"samples{self.turn}"
        line = [
            "sample",
            self.model,
            "--out",
            str(out),
            "--npz",
            str(out / "all.npz"),
            "--codes",
            "--device",
            "cpu",
        ]

        def work(_: int) -> int:
            with joined():
                return command([*line, *self.options, *more])

        codes = together(processes, work)
        self.outcome.check(codes == [0] * processes, f"{more} in {processes} processes ended with {codes}")
        if codes != [0] * processes:
            return None
        rows = read_json(out / "samples.json")["samples"]
        pixels = torch.cat(list(open_npz(out / "all.npz", 64).batches))
        drawn = Drawing(
            pixels, [(row["codes"], row["vq_codes"]) for row in rows], sha256_file(out / "all.npz")
        )
        shutil.rmtree(out)
        return drawn

    def compare(self, size: int) -> None:
        """All in batches of another size: codes are equal, and pixels but for their last rounding."""
        self._alike(self.draw(["--num", str(self.count), "--batch", str(size)]), 0, f"batch {size}")

    def compare_parts(self, size: int) -> None:
        """The first half of the seeds alone."""
        drawn = self.draw(["--seeds", f"0-{self.count // 2 - 1}", "--batch", str(size)])
        self._alike(drawn, self.count // 2, f"half of the seeds, batch {size}")

    def compare_processes(self, size: int) -> None:
        """2 and 4 processes: the same file as by one."""
        line = ["--num", str(self.count), "--batch", str(size)]
        one = self.draw(line)
        for processes in (2, 4):
            self.outcome.cases += 1
            other = self.draw(line, processes)
            case = f"{self.model} {self.options}, batch {size}, {processes} processes"
            self.outcome.check(
                one is not None and other is not None and one.npz == other.npz, f"{case}: another file"
            )

    def _alike(self, drawn: Drawing | None, count: int, what: str) -> None:
        self.outcome.cases += 1
        if drawn is None or self.whole is None:
            return
        count, case = count or self.count, f"{self.model} {self.options}, {what}"
        self.outcome.check(drawn.codes == self.whole.codes[:count], f"{case}: other codes")
        apart = (drawn.pixels.int() - self.whole.pixels[:count].int()).abs()
        self.outcome.check(int(apart.max()) <= 1, f"{case}: pixels {int(apart.max())} of 255 apart")
        self.differing += int(apart.count_nonzero())

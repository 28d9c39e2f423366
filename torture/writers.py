"""T26: several writers in one folder at once, killed writers that begin again, umasks, data of two minds."""

import contextlib
import io
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from digit.errors import DigitError
from digit.files import TEMPORARY, read_json, sha256_file, write_json_atomic
from digit.pipeline import DigitPipeline
from digit.prior import Prior, PriorConfig
from digit.run.main import run as command
from digit.weights.artifact import KINDS, artifact_of, identity, load, save
from digit.weights.vit import vit_layout
from torture.children import Child
from torture.guard import Canaries, Ended, Tally, Tree, digit
from torture.outcome import About, Outcome
from torture.specimens import TRAIN, drawing, make_specimens

ABOUT = About(
    what="two or three writers of different artifacts in one folder at once; convert, compose, fit, "
    "tokenize, sample and train killed by SIGKILL at a random time and repeated; umasks 077, 027 and 002; "
    "codes, labels, weights and lengths that no model can have",
    goal="one whole artifact whose id is its weights', or a sentence; 0 leftovers; rights by the umask",
    full=150,
    short=16,
)
SLOW = 120.0  # seconds for writers that wait for each other


class Suite:
    """Good files, two of what can be mistaken for each other, and the command lines that write."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Make all that is good."""
        self.draw, self.folder, self.out, self.given = (
            random.Random(seed),
            folder,
            folder / "out",
            folder / "given",
        )
        self.there = make_specimens(folder / "specimens")
        stages = self.there / "stages"
        made = read_json(stages / "prior" / "config.json")
        config = PriorConfig(codes=8, length=16, classes=3, width=16, layers=1, heads=2)
        torch.manual_seed(7)
        other = folder / "other"
        save(Prior(config), other / "prior", lineage=made["lineage"], classes=made["classes"])
        layout = vit_layout(16, 3, patch=4, positions=17, scaled=False, mask_token=False)
        torch.save({name: torch.randn(shape) * 0.1 for name, shape in layout.items()}, other / "vit.pth")
        images, out = self.there / "pictures.zip", self.out
        parts = " ".join(f"--{name} {stages / name}" for name in ("renderer", "vqgan", "tokenizer"))
        encoder = f"--encoder {stages / 'encoder'} --clusters 4 --size 16 --device cpu"
        tokens = f"--tokenizer {stages / 'tokenizer'} --vqgan {stages / 'vqgan'} --device cpu"
        vit = "--encoder-heads 2 --image-size 16"
        self.twice = {  # the same command for two different results
            "compose": [
                f"compose --prior {place / 'prior'} {parts} --out {out}" for place in (stages, other)
            ],
            "convert": [
                f"convert {place / 'vit.pth'} {vit} --out {out}" for place in (self.there / "files", other)
            ],
            "fit": [f"fit --images {images} {encoder} --seed {seed} --out {out}" for seed in (0, 1)],
        }
        self.lines = {verb: lines[0] for verb, lines in self.twice.items()} | {
            "tokenize": f"tokenize --images {images} --out {out} {tokens}",
            "sample": f"{drawing(self.there)} --out {out} --npz {out / 'all.npz'}",
            "train": f"train prior --codes {self.there / 'codes'} --out {out} {TRAIN} --steps 3",
        }
        self.whole: dict[str, tuple[dict[str, str], float]] = {}
        for verb, line in self.lines.items():
            begun = time.monotonic()
            ended = digit(*line.split())
            if ended.code != 0:
                raise RuntimeError(f"{verb} does not run at all: {ended.said[-500:]}{ended.error}")
            self.whole[verb] = contents(out), time.monotonic() - begun
            shutil.rmtree(out)
        self.canaries = Canaries(folder / "canaries")
        self.tree = Tree(folder, beside=(self.out, self.given, folder / "canaries"))

    def crowd(self) -> tuple[str, Callable[[Outcome, str], list[Ended]]]:
        """Writers of different things in one folder, at once."""
        verb = self.draw.choice((*self.twice, "save"))
        count, delays = self.draw.choice((2, 3)), [self.draw.random() * 0.3 for _ in range(3)]

        def tried(outcome: Outcome, case: str) -> list[Ended]:
            children = [Child(self._one(verb, i % 2, delays[i])) for i in range(count)]
            ended = [Ended(child.wait(SLOW), "", "") for child in children]
            for each, child in zip(ended, children, strict=True):
                child.kill()
                each.said = child.read().decode(errors="replace")
                child.close()
            outcome.check(
                any(each.code == 0 for each in ended), f"{case}: none wrote {[e.said[-200:] for e in ended]}"
            )
            check_whole(outcome, case, self.out)
            return ended

        return f"{count} times {verb} at once", tried

    def _one(self, verb: str, which: int, delay: float) -> Callable[[int], int]:
        def work(pipe: int) -> int:
            said = io.StringIO()
            os.environ["PATH"] = str(self.canaries.folder)
            module: Any = None
            if verb == "save":
                module = load((self.there / "stages", self.folder / "other")[which] / "prior")
            time.sleep(delay)
            with contextlib.redirect_stderr(said):
                try:
                    code = command(self.twice[verb][which].split()) if module is None else 0
                    if module is not None:
                        save(module, self.out)
                except DigitError as error:
                    said.write(f"digit: {error}\n")
                    code = 2
            os.write(pipe, said.getvalue().encode()[-8000:])
            return code

        return work

    def killed(self) -> tuple[str, Callable[[Outcome, str], list[Ended]]]:
        """A writer that is killed at a random time, once or twice, and repeated."""
        verb = self.draw.choice(list(self.lines))
        times = [self.draw.random() * self.whole[verb][1] for _ in range(self.draw.choice((1, 1, 2)))]

        def tried(outcome: Outcome, case: str) -> list[Ended]:
            for seconds in times:
                child = Child(lambda _: command(self.lines[verb].split()))
                child.wait(seconds)
                child.close()
            ended = digit(*self.lines[verb].split(), canaries=self.canaries)
            outcome.check(
                ended.code == 0, f"{case}: repeated, it ended with {ended.code} {ended.said[-300:]}"
            )
            found = contents(self.out)
            outcome.check(found == self.whole[verb][0], f"{case}: {unlike(found, self.whole[verb][0])}")
            return [ended]

        return f"{verb} killed after {', '.join(f'{seconds:.2f} s' for seconds in times)}", tried

    def rights(self) -> tuple[str, Callable[[Outcome, str], list[Ended]]]:
        """A writer under a umask."""
        verb, mask = self.draw.choice(list(self.lines)), self.draw.choice((0o077, 0o027, 0o002))

        def tried(outcome: Outcome, case: str) -> list[Ended]:
            before = os.umask(mask)
            try:
                ended = digit(*self.lines[verb].split(), canaries=self.canaries)
            finally:
                os.umask(before)
            for path in [self.out, *self.out.rglob("*")]:
                right = (0o777 if path.is_dir() else 0o666) & ~mask
                found = path.stat().st_mode & 0o777
                outcome.check(
                    found == right, f"{case}: {path.relative_to(self.folder)} has {found:o}, not {right:o}"
                )
            return [ended]

        return f"{verb} under umask {mask:03o}", tried

    def of_two_minds(self) -> tuple[str, Callable[[Outcome, str], list[Ended]]]:
        """Codes, labels or lengths, rightly sealed, with which no model can be trained or drawn."""
        what = self.draw.choice(
            ("codes beyond", "labels beyond", "labels below", "no square", "no views", "weights")
        )
        if what == "weights":
            model = self.given / "model"
            shutil.copytree(self.there / "model", model)
            part = self.draw.choice(("prior", "renderer", "vqgan"))
            module: Any = load(model / part)
            with torch.no_grad():
                next(module.parameters()).view(-1)[self.draw.randrange(3)] = self.draw.choice(
                    (float("nan"), float("inf"))
                )
            save(module, model / part, id=module.artifact["id"], lineage=module.artifact["lineage"])
            line = f"sample {model} --num 1 --device cpu --out {self.out}"
            return f"{part} that is not finite", lambda outcome, case: self._refused(outcome, case, line)
        codes = self.given / "codes"
        shutil.copytree(self.there / "codes", codes)
        meta = read_json(codes / "meta.json")
        name = "labels.npy" if what.startswith("labels") else "codes.npy"
        array = np.load(codes / name)
        place = self.draw.randrange(array.size)
        if what in ("codes beyond", "labels beyond"):
            array.reshape(-1)[place] = self.draw.choice((8, 9, 30_000))
        elif what == "labels below":
            array[place] = -1
        elif what == "no square":
            array = np.ascontiguousarray(array[:, :, : self.draw.choice((8, 15, 2))])
        else:
            array = np.ascontiguousarray(array[:, :0])
        np.save(codes / name, array)
        meta["files"][name] = sha256_file(codes / name)
        write_json_atomic(codes / "meta.json", meta, checksum=True)
        line = f"train prior --codes {codes} --out {self.out} {TRAIN} --steps 2"
        return f"codes with {what}", lambda outcome, case: self._refused(outcome, case, line)

    def _refused(self, outcome: Outcome, case: str, line: str) -> list[Ended]:
        """It must be refused before anything is trained or drawn."""
        ended = digit(*line.split(), canaries=self.canaries)
        outcome.check(ended.code == 2, f"{case}: it ended with {ended.code} {ended.said[-200:]}")
        left = [path for path in (self.out / "state", self.out / "model.safetensors") if path.exists()]
        left += list(self.out.glob("*.png")) if self.out.exists() else []
        outcome.check(not left, f"{case}: refused after {left} was written")
        return [ended]


def check_whole(outcome: Outcome, case: str, out: Path) -> None:
    """Every artifact below is one whole: its id is that of its own weights."""
    for path in sorted(out.rglob("config.json")):
        kind = read_json(path).get("kind")
        try:
            if kind in KINDS:
                module = load(path.parent)
                told = artifact_of(module)["id"]
                outcome.check(
                    identity(module) == told, f"{case}: {path.parent.name} has the id of other weights"
                )
            else:
                DigitPipeline.from_pretrained(path.parent)
        except DigitError as error:
            outcome.lost(f"{case}: {error}")
    left = list(out.rglob(f"{TEMPORARY}*"))
    outcome.check(not left, f"{case}: {[path.name for path in left[:3]]} were left")


def contents(out: Path) -> dict[str, str]:
    """sha256 of every file that must be the same after each run, and the names of all others."""
    varies = (
        ".digit.json",
        "log.jsonl",
        "status.json",
        "loss.png",
        "state.json",
        "samples.json",
        "report.json",
        "config.json",
    )
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_file() and not path.name.startswith(".lock"):
            found[name] = "" if path.name in varies else sha256_file(path)
            if path.name == "config.json":
                found[name] = str(read_json(path).get("id"))
    return found


def unlike(found: dict[str, str], whole: dict[str, str]) -> str:
    """In what two contents differ."""
    names = sorted({*found, *whole})
    return ", ".join(
        f"{name} {'is too much' if name not in whole else 'is lacking' if name not in found else 'differs'}"
        for name in names
        if found.get(name) != whole.get(name)
    )[:300]


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` times writers, each kind by lot."""
    outcome, tally, suite = Outcome(), Tally(), Suite(folder, seed)
    kinds = [suite.crowd, suite.killed, suite.rights, suite.of_two_minds]
    for _ in range(cases):
        for place in (suite.out, suite.given):
            shutil.rmtree(place, ignore_errors=True)
        case, tried = suite.draw.choices(kinds, [4, 6, 2, 3])[0]()
        ended = tried(outcome, case)
        for each in ended:
            tally.take(outcome, case, each)
        outcome.cases -= len(ended) - 1
        tally.note(outcome, case, programs=suite.canaries.take(), touched=suite.tree.changes())
    for place in (suite.out, suite.given):
        shutil.rmtree(place, ignore_errors=True)
    outcome.figures = tally.figures()
    return outcome

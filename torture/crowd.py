"""T18: sixteen processes at once on one folder of a run, of codes, of cached features and of samples."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from digit.data.codes import Codes
from digit.errors import DigitError
from digit.files import TEMPORARY
from digit.run.evaluate.probe_states import cached_rows
from digit.run.main import run as command
from torture import tiny, training
from torture.children import Child
from torture.outcome import About, Outcome

ABOUT = About(
    what="16 processes at once train in one folder, tokenize into one, draw into one, and fill one cache of "
    "features",
    goal="one trains, tokenizes, draws, the others refuse in a sentence; 0 torn files",
    full=20,
    short=1,
)
CROWD = 16
REFUSED = 2


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` times all four."""
    outcome = Outcome()
    codes = training.make_data(folder)
    images, stages = folder / "pictures.zip", folder / "stages"
    names = ("tokenizer", "vqgan", "prior", "renderer")
    model = tiny.make_model({name: stages / name for name in names}, folder / "model")
    expected = Codes(codes).array("codes")
    training.warm(codes, folder / "warm")
    once = folder / "once"
    command(["sample", str(model), "--num", "6", "--out", str(once), "--device", "cpu"])
    rows = torch.randn(60, 2, 8).half()
    refusals = 0

    def train_there(_: int) -> int:
        try:
            return training.train_prior(codes, folder / "run")
        except DigitError:
            return REFUSED

    def tokenize_there(_: int) -> int:
        line = f"tokenize --images {images} --out {folder / 'codes2'} --tokenizer {stages / 'tokenizer'}"
        return command([*line.split(), "--vqgan", str(stages / "vqgan"), "--device", "cpu"])

    def cache_there(_: int) -> int:
        found = cached_rows(
            lambda start: rows[start : start + 5],
            (60, 2, 8),
            title="features",
            key={"of": "noise"},
            cache=folder / "cache",
            limit=0,
            batch=5,
            where=torch.device("cpu"),
        )
        return 0 if torch.equal(found, rows) else 1

    def sample_there(_: int) -> int:
        line = f"sample {model} --num 6 --device cpu --out {folder / 'samples'}"
        return command(line.split())

    for i in range(cases):
        for work in (train_there, tokenize_there, cache_there, sample_there):
            children = [Child(work) for _ in range(CROWD)]
            codes_of = [child.wait() for child in children]
            said = b"".join(child.read() for child in children).decode()[-300:]
            for child in children:
                child.close()
            case = f"round {i}, {work.__name__.split('_')[0]}: {codes_of} {said}"
            if work is not cache_there:
                # One that comes when the first has finished finds its work done, and says so by 0.
                outcome.check(0 in codes_of and set(codes_of) <= {0, REFUSED}, case)
                refusals += codes_of.count(REFUSED)
            else:
                outcome.check(set(codes_of) == {0}, case)
            outcome.cases += 1
        outcome.check(
            training.check_folder(outcome, folder / "run", f"round {i}") == training.CONFIG.steps,
            "unfinished",
        )
        outcome.check(
            np.array_equal(Codes(folder / "codes2").array("codes"), expected), f"round {i}: other codes"
        )
        for path in sorted((folder / "samples").glob("0*.png")):
            with Image.open(path) as drawn, Image.open(once / path.name) as whole:
                outcome.check(
                    drawn.tobytes() == whole.tobytes(), f"round {i}: {path.name} is another picture"
                )
        json.loads((folder / "samples" / "samples.json").read_text())
        for place in ("run", "codes2", "cache", "samples"):
            left = list((folder / place).rglob(f"{TEMPORARY}*"))
            outcome.check(not left, f"round {i}: {left[:3]} were left")
            shutil.rmtree(folder / place)
    outcome.figures = {"processes": CROWD, "refusals": refusals}
    return outcome

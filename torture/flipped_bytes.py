"""T10: one byte of a stored file is another one, as memory and disks do it; is that found on reading?"""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from digit.data.codes import Codes
from digit.errors import DigitError
from digit.files import read_bytes, read_json, write_bytes_atomic, write_json_atomic
from digit.pipeline import DigitPipeline
from digit.run.evaluate.probe_states import cached_rows
from digit.training import checkpoint
from digit.training.log import Status, read_status, write_status
from digit.weights.artifact import load
from torture import tiny
from torture.outcome import About, Outcome

ABOUT = About(
    what="one random byte changed in codes, tokenizers, stages, models, training states, cached features "
    "and unfinished parts, then read",
    goal="1,000 of 1,000 found",
    full=1000,
    short=90,
)


TOLD = (
    "README.md",
    "model_index.json",
    "pipeline.py",
)  # beside a model, for others: digit reads none of them


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` changed bytes: first a file by lot, then a byte of it, then its new value."""
    outcome, draw = Outcome(), random.Random(seed)
    readers = stored(folder)
    for path, read in readers.items():
        read(path)  # whole files are read
    counts: dict[str, int] = {}
    for _ in range(cases):
        path = draw.choice(list(readers))
        whole = path.read_bytes()
        place, mask = draw.randrange(len(whole)), draw.randrange(1, 256)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        name = path.relative_to(folder).as_posix()
        outcome.cases += 1
        counts[name] = counts.get(name, 0) + 1
        try:
            readers[path](path)
            outcome.lost(f"byte {place} of {name} xor {mask} was not found")
        except DigitError as error:
            outcome.check("\n" not in str(error), f"{name}: {error!r}")
        finally:
            path.write_bytes(whole)
    outcome.figures = {"files": len(counts), "found": outcome.cases - len(outcome.losses)}
    return outcome


def stored(folder: Path) -> dict[Path, Callable[[Path], object]]:
    """Every kind of file that digit writes to read again, each with what reads it."""
    images = tiny.make_pictures(folder / "pictures.zip")
    stages = tiny.make_stages(folder / "stages")
    model = tiny.make_model(stages, folder / "model")
    codes = tiny.make_codes(images, stages, folder / "codes")
    state = tiny.make_state(folder / "state")
    readers: dict[Path, Callable[[Path], object]] = {}
    for path in _files(folder / "stages"):
        readers[path] = lambda path: load(path.parent)
    for path in (path for path in _files(model) if path.name not in TOLD):
        readers[path] = lambda _: DigitPipeline.from_pretrained(model)
    for path in [codes / "meta.json", *codes.glob("*.npy")]:
        readers[path] = lambda _: Codes(codes)
    for path in _files(state):
        readers[path] = lambda _: checkpoint.load(state)
    write_bytes_atomic(folder / "0000000000.npz", np.random.default_rng(0).bytes(3000))
    readers[folder / "0000000000.npz"] = read_bytes
    write_json_atomic(folder / "plan.json", {"format": 1, "source": "a" * 64, "views": 2}, checksum=True)
    readers[folder / "plan.json"] = read_json
    write_status(folder, Status(3, 10, "interrupted", 2.5))
    readers[folder / "status.json"] = lambda path: read_status(path.parent)
    cache, rows = folder / "cache", torch.randn(20, 2, 8).half()

    def features(_: object) -> object:
        return cached_rows(
            lambda start: rows[start : start + 5],
            (20, 2, 8),
            title="features",
            key={"of": "noise"},
            cache=cache,
            limit=0,
            batch=5,
            where=torch.device("cpu"),
        )

    features(None)
    for path in _files(cache):
        readers[path] = features
    return readers


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())

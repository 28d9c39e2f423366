"""T3: a training stopped one to three times, mid-epoch and across epochs, beside one in one piece."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from digit.data.codes import CodeData, Codes
from digit.data.images import open_images
from digit.data.pixels import PixelData
from digit.errors import Terminated
from digit.training.log import read
from digit.training.loop import train
from digit.weights.storage import fingerprint
from torture import tiny, training
from torture.outcome import About, Outcome

ABOUT = About(
    what="trainings on codes and pictures (in memory, from the disk, read ahead by 1 and 4 threads) stopped "
    "1 to 3 times by SIGTERM at random steps; 24 steps, 8 epochs; CPU",
    goal="100 runs: weights, every batch and every logged loss bitwise those of one piece",
    full=100,
    short=5,
)
CONFIG = replace(training.CONFIG, save_every=1000)


class Colours(nn.Module):
    """Tells classes of pictures apart, with dropout and batch norm."""

    def __init__(self) -> None:
        """The same weights each time."""
        super().__init__()
        torch.manual_seed(2)
        self.norm, self.drop, self.out = nn.BatchNorm1d(48), nn.Dropout(0.3), nn.Linear(48, 3)

    def loss(self, batch: Any) -> Tensor:
        """Cross-entropy of the labels."""
        small = nn.functional.adaptive_avg_pool2d(batch.pixels, 4).flatten(1)
        return nn.functional.cross_entropy(self.out(self.drop(self.norm(small))), batch.labels)


@dataclass
class Piece:
    """What a run gave."""

    weights: str
    batches: dict[int, str]  # by step
    losses: list[tuple[int, float]]


def kinds(folder: Path) -> dict[str, tuple[Callable[[], nn.Module], Callable[[], Callable[[int], Any]]]]:
    """What is trained on what, by a name."""
    codes = Codes(training.make_data(folder))
    source = open_images(tiny.make_pictures(folder / "pictures.zip"))

    def from_codes(limit: int) -> Callable[[], Callable[[int], Any]]:
        return lambda: CodeData(codes, batch_size=8, memory_limit_bytes=limit)

    def from_pictures(threads: int, limit: int) -> Callable[[], Callable[[int], Any]]:
        options: dict[str, Any] = {"threads": threads, "memory_limit_bytes": limit, "crop": True}
        return lambda: PixelData(source, size=16, batch_size=8, **options)

    return {
        "codes in memory": (lambda: training.prior(codes), from_codes(10**9)),
        "codes on the disk": (lambda: training.prior(codes), from_codes(0)),
        "pictures in memory": (Colours, from_pictures(1, 10**9)),
        "pictures, 1 thread": (Colours, from_pictures(1, 0)),
        "pictures, 4 threads": (Colours, from_pictures(4, 0)),
    }


def piece(out: Path, stage: nn.Module, data: Callable[[int], Any], stops: list[int]) -> Piece:
    """A run that is stopped when it asks for the data of these steps, and goes on."""
    batches: dict[int, str] = {}
    stops, differing = sorted(stops), []

    def noted(step: int) -> Any:
        if stops and step == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        batch = data(step)
        mark = training.fingerprint(batch)
        if batches.setdefault(step, mark) != mark:
            differing.append(step)
        return batch

    state = {name: value.clone() for name, value in stage.state_dict().items()}
    while True:
        stage.load_state_dict(state)  # a new process begins with the first weights
        try:
            trained = train(stage, noted, CONFIG, out, device="cpu", progress=False)
            break
        except Terminated:
            continue
    assert not differing, f"steps {differing} had two batches"
    losses = [(each["step"], each["loss"]) for each in read(out / "log.jsonl") if "loss" in each]
    return Piece(fingerprint("", trained.state_dict()), batches, losses)


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` runs, the kinds in turn."""
    outcome, draw = Outcome(), random.Random(seed)
    every = kinds(folder)
    whole = {}
    for name, (stage, data) in every.items():
        whole[name] = piece(folder / "whole" / name.replace(" ", "-"), stage(), data(), [])
    resumes = 0
    for i in range(cases):
        name = list(every)[i % len(every)]
        stage, data = every[name]
        stops = draw.sample(range(CONFIG.steps), draw.randrange(1, 4))
        out = folder / "run"
        got = piece(out, stage(), data(), list(stops))
        case = f"run {i}, {name}, stopped at {sorted(stops)}"
        outcome.check(got.weights == whole[name].weights, f"{case}: other weights")
        outcome.check(got.batches == whole[name].batches, f"{case}: other batches")
        outcome.check(got.losses == whole[name].losses, f"{case}: other losses")
        training.check_folder(outcome, out, case)
        resumes += len(stops)
        outcome.cases += 1
        shutil.rmtree(out)
    same = whole["pictures, 1 thread"].batches == whole["pictures, 4 threads"].batches
    outcome.check(same, "1 and 4 threads gave other batches")
    outcome.figures = {"resumes": resumes}
    return outcome

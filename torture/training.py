"""A tiny real training that the tests kill, stop, starve and repeat."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from digit.data.codes import CodeData, Codes
from digit.errors import Terminated
from digit.files import TEMPORARY, sha256_file
from digit.prior import Prior, PriorConfig
from digit.training import checkpoint
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.loop import train
from digit.weights.artifact import save
from torture import tiny
from torture.outcome import Outcome

INTERRUPTED, TERMINATED = 130, 143  # exit codes of the command line
CONFIG = TrainConfig(
    steps=24, batch=8, log_every=4, save_every=3, ema=0.9, optimizer=OptimizerConfig(lr=1e-2, warmup=2)
)


def make_data(folder: Path) -> Path:
    """Codes of the tiny chain's pictures."""
    images = tiny.make_pictures(folder / "pictures.zip")
    return tiny.make_codes(images, tiny.make_stages(folder / "stages"), folder / "codes")


def prior(codes: Codes) -> Prior:
    """A prior over them, the same each time."""
    torch.manual_seed(1)
    shape = PriorConfig(
        codes=8, length=codes.length("codes"), classes=3, width=16, layers=1, heads=2, dropout=0.1
    )
    return Prior(shape)


def train_prior(
    codes: Path,
    out: Path,
    config: TrainConfig = CONFIG,
    *,
    data: Callable[[Callable[[int], Any], int], Any] | None = None,
    stage: Callable[[Prior], Any] = lambda stage: stage,
    saved: Callable[[], object] = lambda: None,
    evaluate: Callable[[Any, int], Iterable[tuple[str, float]]] | None = None,
    picture: Callable[[Any, int], Image.Image] | None = None,
) -> int:
    """Train or go on training; the command line's exit code. `data(usual, step)` may stand between."""
    opened = Codes(codes)
    usual = CodeData(opened, batch_size=config.batch, seed=config.seed)

    def on_save(trained: Any, state: Path | None) -> None:
        save(trained, out, classes=opened.classes)
        saved()

    try:
        train(
            stage(prior(opened)),
            usual if data is None else lambda step: data(usual, step),
            config,
            out,
            evaluate=evaluate,
            picture=picture,
            on_save=on_save,
            device="cpu",
            progress=False,
        )
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def weights(out: Path) -> str:
    """The sha256 of the weights of a run's artifact."""
    return sha256_file(out / "model.safetensors")


def check_folder(outcome: Outcome, out: Path, name: str) -> int:
    """Every state can be read and no temporary is left; the step of the newest state, -1 without one."""
    left = list(out.rglob(f"{TEMPORARY}*")) if out.exists() else []
    outcome.check(not left, f"{name} left {[path.name for path in left[:3]]}")
    found = checkpoint.load_newest(out / "state", warn=lambda sentence: outcome.lost(f"{name}: {sentence}"))
    return -1 if found is None else found.step


def warm(codes: Path, out: Path) -> None:
    """Import and compute all that a run needs, once, so that copies of this process have it."""
    train_prior(codes, out)


def fingerprint(batch: Any) -> str:
    """What tells batches apart."""
    digest = hashlib.sha256()
    for part in batch:
        if isinstance(part, torch.Tensor):
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()

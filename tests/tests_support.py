"""Pictures that tests make for themselves, and where the files of the reference are."""

import functools
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from digit.nn.sampling import SamplerConfig, draw

FIXTURES = Path(__file__).parent / "fixtures"  # see its manifest.json


def make_pictures(path: Path, count: int = 48, size: int = 16) -> Path:
    """A zip of three classes of small pictures: a coloured disc each, in another place each time."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            name = ("blue", "green", "red")[i % 3]
            pixels = rng.integers(0, 40, (size, size, 3))
            y, x = rng.integers(4, size - 4, 2)
            pixels[(rows - y) ** 2 + (columns - x) ** 2 < 12, ("red", "green", "blue").index(name)] += 200
            file = path.parent / "picture.png"
            Image.fromarray(pixels.astype(np.uint8)).save(file)
            archive.write(file, f"{name}/{i:04d}.png")
            file.unlink()
    return path


def note_calls(verbs: dict) -> tuple[dict, list]:
    """The verbs of the command line with nothing behind them, and the list that their arguments go to."""
    called: list = []

    def noting(verb):
        @functools.wraps(verb)
        def note(**values):
            called.append(values)
            return {}

        return note

    def noted(verb):
        return SimpleNamespace(function=lambda: noting(verb.function()), together=verb.together)

    return {name: noted(verb) for name, verb in verbs.items()}, called


def drawn_at_once(
    logits: Tensor, keys: Tensor, config: SamplerConfig | None, *, null: Tensor | None = None
) -> Tensor:
    """Codes drawn from the logits of all positions: those of decoding, where it read the same codes."""
    config = config or SamplerConfig()
    if null is not None and config.guidance != 1:
        length = logits.shape[1]
        scale = torch.tensor([[config.guidance_at(place, length)] for place in range(length)])
        logits = null + scale * (logits - null)
    return draw(logits, keys.unsqueeze(1), torch.arange(logits.shape[1]), config)

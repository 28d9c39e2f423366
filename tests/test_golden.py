"""The bundled model draws what it drew: codes and pixels of 16 seeds, and the README's sheet of a hundred.

On a CPU in float32. `python tests/test_golden.py` writes the fixture and the sheet anew, which is right only
after a change that means to change pictures. On a processor with other vector instructions a product may
round otherwise, and a draw of two codes that are nearly level fall the other way: a few pictures may differ.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from digit.pipeline import DigitPipeline
from digit.run.sample import sample

FILE = Path(__file__).parent / "fixtures" / "golden_draws.safetensors"
SEEDS = list(range(16))
WAYS = {"by_class": {}, "no_class": {"unconditional": True}, "masked": {"renderer": "masked"}}
ELSEWHERE = 2  # pictures of a way that may differ on another kind of processor
SHEET = Path(__file__).parents[1] / "docs" / "images" / "samples.png"
SHEET_ELSEWHERE = 5  # of its 100


def draws() -> dict[str, torch.Tensor]:
    """Codes, VQ codes and pixels of each way, and the tokenizer's codes of the first way's pixels."""
    pipeline = DigitPipeline.from_pretrained()
    found: dict[str, torch.Tensor] = {}
    for way, how in WAYS.items():
        drawn = pipeline(seeds=SEEDS, **how)
        found |= {f"{way}.codes": drawn.codes.int(), f"{way}.vq_codes": drawn.vq_codes.int()}
        found[f"{way}.pixels"] = drawn.pixels.contiguous()
    found["encoded"] = pipeline.encode(found["by_class.pixels"].float() / 255).int()
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, torch.Tensor]:
    return draws()


@pytest.mark.parametrize(
    "name", [*(f"{way}.{part}" for way in WAYS for part in ("codes", "vq_codes", "pixels")), "encoded"]
)
def test_draws_are_those_of_before(found, name):
    with safe_open(FILE, "pt") as file:
        golden = file.get_tensor(name)
    differ = [seed for seed in SEEDS if not torch.equal(found[name][seed], golden[seed])]
    assert len(differ) <= may_differ(ELSEWHERE), f"{name}: other pictures for the seeds {differ}"


def draw_sheet(out: Path) -> Image.Image:
    """The command that the README names below the picture."""
    sample(seeds="0-99", out=out, device="cpu")
    with Image.open(out / "grid.png") as image:
        return image.convert("RGB")


def may_differ(elsewhere: int) -> int:
    """None on the kind of processor that made the fixture, else so many."""
    with safe_open(FILE, "pt") as file:
        made_on = file.metadata()["processor"]
    return 0 if made_on == torch.backends.cpu.get_cpu_capability() else elsewhere


def test_the_sheet_of_the_readme_is_what_its_command_draws(tmp_path):
    found, shown = np.asarray(draw_sheet(tmp_path)), np.asarray(Image.open(SHEET).convert("RGB"))
    assert found.shape == shown.shape
    differ = (found != shown).any(-1)
    across, down = differ.shape[1] // 10, differ.shape[0] // 10
    pictures = {(row // down, column // across) for row, column in zip(*differ.nonzero(), strict=True)}
    assert len(pictures) <= may_differ(SHEET_ELSEWHERE), sorted(pictures)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        draw_sheet(Path(folder))
        shutil.copy(Path(folder) / "grid.png", SHEET)
    save_file(draws(), FILE, metadata={"processor": torch.backends.cpu.get_cpu_capability()})

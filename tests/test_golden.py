"""The bundled model draws what it drew: codes and pixels of 16 seeds, on a CPU in float32.

`python tests/test_golden.py` writes the fixture anew, which is right only after a change that means to change
pictures. On a processor with other vector instructions a product may round otherwise, and a draw that falls
next to a boundary then takes the neighbouring code: a few pictures may differ there.
"""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from digit.pipeline import DigitPipeline

FILE = Path(__file__).parent / "fixtures" / "golden_draws.safetensors"
SEEDS = list(range(16))
WAYS = {
    "by_class": {"labels": [seed % 10 for seed in SEEDS]},
    "no_class": {"unconditional": True},
    "masked": {"labels": [seed % 10 for seed in SEEDS], "renderer": "masked"},
}
ELSEWHERE = 2  # pictures of a way that may differ on another kind of processor


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
        golden, processor = file.get_tensor(name), file.metadata()["processor"]
    differ = [seed for seed in SEEDS if not torch.equal(found[name][seed], golden[seed])]
    if processor == torch.backends.cpu.get_cpu_capability():
        assert not differ, f"{name}: other pictures for the seeds {differ}"
    assert len(differ) <= ELSEWHERE, f"{name}: other pictures for the seeds {differ}"


if __name__ == "__main__":
    save_file(draws(), FILE, metadata={"processor": torch.backends.cpu.get_cpu_capability()})

"""How many golden pictures, drawn on one machine's CPU, this machine draws too, on each of its devices."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from digit.pipeline import DigitPipeline

GOLDEN = load_file(Path(__file__).parents[1] / "tests" / "fixtures" / "golden_draws.safetensors")
WAYS = {"by_class": {}, "no_class": {"unconditional": True}, "masked": {"renderer": "masked"}}
PLACES = {  # name -> device, half precision, how many of the 16 may have other codes
    "CPU": ("cpu", False, 2),
    "GPU, float32": ("cuda", False, 2),
    "GPU, bfloat16": ("cuda", True, 12),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_golden_codes(place, way, record):
    where, autocast, most = PLACES[place]
    wanted = GOLDEN[f"{way}.codes"], GOLDEN[f"{way}.vq_codes"]
    pipeline = DigitPipeline.from_pretrained(device=where)
    drawn = pipeline(seeds=range(len(wanted[0])), autocast=autocast, **WAYS[way])
    found = drawn.codes.int().cpu(), drawn.vq_codes.int().cpu()
    codes, vq_codes = ((a != b).any(1) for a, b in zip(found, wanted, strict=True))
    count = int((codes | vq_codes).sum())
    record("of 16 images, with other codes", count)
    assert count <= most

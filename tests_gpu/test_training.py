"""Training on the GPU follows the golden curve of tests/fixtures: in float32, and compiled with kernels."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOLDEN = json.loads((ROOT / "tests/fixtures/training_curve.json").read_text())
BFLOAT16 = 0.02  # nats: the bound of the same arithmetic on a CPU (tests/training/test_curve.py)
MASKS = (
    0.03  # nats between means of 30 losses by other dropout masks; of twelve on a CPU the largest is 0.008
)


@pytest.fixture(scope="module")
def curves(device):
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests/training"), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, str(Path(__file__).with_name("curve_worker.py")), str(device)]
    environment = {**os.environ, "PYTHONPATH": paths, "TORCHINDUCTOR_COMPILE_THREADS": "1"}  # as others run
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def apart(one, other):
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_in_float32_it_is_the_cpus(curves, norm, record):
    record("largest distance", distance := apart(curves[norm]["float32"], curves[norm]["cpu"]))
    assert distance < 1e-3


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_compiled_in_bfloat16_it_stays_near(curves, norm, record):
    record("largest distance", distance := apart(curves[norm]["fast"], curves[norm]["cpu"]))
    assert distance < BFLOAT16
    assert curves[norm]["kernels"] == (norm == "post")


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_with_dropout_it_follows_the_golden_curve(curves, norm, record):
    found = curves[norm]["fast, with dropout"]
    means = [statistics.mean(losses[-30:]) for losses in (found, GOLDEN[norm])]
    record("distance of the means of the last 30", distance := abs(means[0] - means[1]))
    assert distance < MASKS and found[-1] < found[0] - 1

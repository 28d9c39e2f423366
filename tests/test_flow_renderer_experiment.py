"""experiments/flow_renderer.py: every part in small, and what is done stays done."""

import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import flow_renderer
import numpy as np
from PIL import Image

from digit.files import read_json

ROOT = Path(__file__).parents[1]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def run(*given):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'experiments'}",
    }
    command = [sys.executable, str(ROOT / "experiments" / "flow_renderer.py"), *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_part_in_small_then_nothing_is_left(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        with zipfile.ZipFile(tmp_path / "data" / f"cifar10-{name}.zip", "w") as archive:
            for label in (*CLASSES, *CLASSES):
                file = BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "png")
                archive.writestr(f"{label}/{len(archive.namelist()):04d}.png", file.getvalue())
    given = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--smoke"]
    run(*given)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    run(*given, "--only", "judge", "codes", "teacher", "student")
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    rows = read_json(tmp_path / "run" / "flow.json")["rows"]
    assert set(rows) == {"autoregressive", "masked", "teacher-0", "student-1-0", "student-1-frechet-0"}
    assert rows["student-1-0"]["by the prior"]["free"]["setting"]["passes"] == 1
    halves = [zipfile.ZipFile(tmp_path / "run" / f"{half}.zip").namelist() for half in flow_renderer.HALVES]
    assert len(halves[0]) == len(halves[1]) == 10 and not set(halves[0]) & set(halves[1])

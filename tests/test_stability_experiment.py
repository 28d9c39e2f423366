"""experiments/stability.py: every part in small, what is done stays done, the smaller copy of the data."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from native.photos import block_of, carry, gather, make_up
from native.scale import SMOKE

from digit.errors import DigitError
from digit.evaluation.result import read_result
from digit.files import read_safetensors

ROOT = Path(__file__).parents[1]


def run(out: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "experiments/stability.py", "run", "--smoke", "--out", str(out)]
    command += ["--device", "cpu"]
    command = [
        sys.executable,
        "experiments/stability.py",
        "run",
        "--smoke",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    paths = os.pathsep.join((str(ROOT), str(ROOT / "experiments")))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run([*command, *more], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_smoke_makes_every_result_and_goes_on_where_it_stopped(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("flat", "split"):
        values = read_result(tmp_path / "result" / f"{name}.json")["values"]
        named = {entry.split(":")[0] for entry in values}
        assert named == {
            "vqgan-early", "vqgan", "vits14-saliency-4", "vits14-saliency-8", "own-4", "random-4",
        }  # fmt: skip
        assert (tmp_path / "result" / f"{name}.png").is_file()
    summary = (tmp_path / "result" / "summary.md").read_text()
    assert "| paper, discriminative | 0.114 | 0.178 |" in summary
    assert (tmp_path / "result" / "vqgan.png").is_file()
    (tmp_path / "own-4" / "report.json").unlink()
    late = run(tmp_path, "--minutes", "0")
    assert late.returncode == 1
    assert "own-4: no time left" in late.stderr
    assert late.stdout == ""  # nothing before it was done again


def test_the_smaller_copy_gives_the_same_features(tmp_path):
    from digit.features import Encoder, encoder_config

    data = make_up(tmp_path / "data", SMOKE)
    weights = data / "vits14-saliency.safetensors"
    room = (weights.stat().st_size + 12_000) / 1e6
    carry(data, tmp_path / "copy", room)
    assert sum(path.stat().st_size for path in (tmp_path / "copy").iterdir()) <= room * 1e6
    pixels = torch.rand(2, 3, 16, 16)
    features = []
    for folder in (data, tmp_path / "copy"):
        file = folder / weights.name
        depth = 1 + max(map(block_of, read_safetensors(file)))
        shape = encoder_config(
            SMOKE.encoder, 16, arguments={**SMOKE.arguments, "depth": depth}, block=9 - depth
        )
        features.append(Encoder(shape, file)(pixels))
    assert torch.equal(*features)
    with zipfile.ZipFile(tmp_path / "copy" / "split.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"train", "test"}
    with pytest.raises(DigitError, match="less than the weights"):
        carry(data, tmp_path / "none", 0.001)


def test_no_held_out_photo_is_trained_on(tmp_path):
    gather(make_up(tmp_path / "data", SMOKE), tmp_path / "photos.zip", SMOKE)
    with zipfile.ZipFile(tmp_path / "photos.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    parts = {
        part: {bytes for name, bytes in contents.items() if name.startswith(part)}
        for part in ("train/", "held-out/")
    }
    assert parts["train/"]
    assert parts["held-out/"]
    assert not parts["train/"] & parts["held-out/"]

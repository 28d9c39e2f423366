"""experiments/stability.py: every part in small, what is done stays done, the smaller copy of the data."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import stability
import torch
from native.photos import block_of, carry, gather, make_up
from native.reconstruction import FRECHET, MAPS
from native.scale import SMOKE

from digit.errors import DigitError
from digit.evaluation.result import read_result
from digit.files import read_json
from digit.tensors import read_safetensors

ROOT = Path(__file__).parents[1]


def run(out: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "experiments/stability.py", "run", "--smoke", "--device", "cpu"]
    command += ["--out", str(out)]
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
        again = read_result(tmp_path / "result" / f"reconstruction-{name}.json")["values"]
        assert set(again) == {
            f"{vqgan}: {what}" for vqgan in ("vqgan-early", "vqgan") for what in (FRECHET, MAPS)
        }
        assert (tmp_path / "result" / f"reconstruction-{name}.png").is_file()
    summary = (tmp_path / "result" / "summary.md").read_text()
    assert "| paper, discriminative | 0.114 | 0.178 |" in summary
    assert (tmp_path / "result" / "vqgans.png").is_file()
    assert read_json(tmp_path / "result" / "seconds.json")["trainings"]["vqgan"]["updates"] == 4
    (tmp_path / "own-4" / "report.json").unlink()
    late = run(tmp_path, "--minutes", "0")
    assert late.returncode == 1
    assert "own-4: no time left" in late.stderr
    assert late.stdout == ""  # nothing before it was done again


def test_the_smaller_copy_gives_the_same_features(tmp_path):
    from digit.features import Encoder, encoder_config

    data = make_up(tmp_path / "data", SMOKE)
    weights = data / "vits14-saliency.safetensors"
    others = ("efficientnet-lite0.safetensors", "squeezenet1_1.safetensors")
    room = (weights.stat().st_size + sum((data / name).stat().st_size for name in others) + 12_000) / 1e6
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


def test_a_smaller_set_is_repeated_until_an_epoch_has_as_much_of_it(tmp_path):
    data = make_up(tmp_path / "data", SMOKE)
    with zipfile.ZipFile(data / "flat.zip") as archive, zipfile.ZipFile(data / "few.zip", "w") as few:
        for name in archive.namelist()[:5]:
            few.writestr(name, archive.read(name))
    gather(data, tmp_path / "photos.zip", SMOKE)
    with zipfile.ZipFile(tmp_path / "photos.zip") as archive:
        trained = [name.split("/")[1] for name in archive.namelist() if name.startswith("train/")]
    assert {name: trained.count(name) for name in ("flat", "split", "few")} == {
        "flat": 16, "split": 20, "few": 16,
    }  # fmt: skip


def test_several_devices_share_the_parts(tmp_path, monkeypatch):
    commands, places = [], []

    class Process:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            commands.append(command)
            places.append(env["CUDA_VISIBLE_DEVICES"])

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(stability.subprocess, "Popen", Process)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    options = ["run", "--smoke", "--device", "cpu", "--devices", "2", "--out", str(tmp_path)]
    assert stability.main(options) == 0
    shared = [command[command.index("--parts") + 1 :] for command in commands]
    shared = [[part for part in parts if not part.startswith("--")] for parts in shared]
    assert shared == [
        ["vqgan"],
        ["vqgan-early", "own", "vits14-saliency-4", "vits14-saliency-8", "own-4", "random-4"],
        ["measure:flat"],
        ["measure:split"],
    ]
    assert places == ["0", "1", "0", "1"]


def test_a_part_that_fails_leaves_the_others_to_go_on(tmp_path):
    data = make_up(tmp_path / "data", SMOKE)
    (data / "efficientnet-lite0.safetensors").unlink()
    done = run(tmp_path / "out", "--data", str(data), "--parts", "vqgan", "vqgan-early", "own")
    assert done.returncode == 1
    assert "make it with experiments/efficientnet_lite0.py" in done.stderr
    assert "own: " in done.stdout and "vqgan: " not in done.stdout

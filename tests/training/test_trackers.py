"""Losses and pictures arrive in each tracker, which own readers show; nothing is sent anywhere."""

import importlib.util
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from digit.errors import DigitError
from digit.training.trackers import Trackers

PICTURE = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


def tracked(name, out, step=0):
    found = Trackers([name], out, step)
    for each in range(step + 1, step + 4):
        found.record(each, {"loss": 1 / each})
    found.picture(step + 3, PICTURE)
    found.close()


def test_tensorboard_reads_them_back(tmp_path):
    """Also of a run that goes on: what was after its state is done again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked("tensorboard", tmp_path)
    tracked("tensorboard", tmp_path, step=2)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    scalars = board.Scalars("loss")
    assert [each.step for each in scalars] == [1, 2, 3, 4, 5]
    assert [each.value for each in scalars] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert [each.step for each in board.Images("samples")][-1] == 5
    (image,) = [each for each in board.Images("samples") if each.step == 5]
    assert (image.width, image.height) == (4, 4)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_others_get_the_same_calls(name, tmp_path, monkeypatch):
    """By a stand-in where they are imported; the module itself is tried below where it is installed."""
    said = []
    run = SimpleNamespace(
        log=lambda values, step: said.append((step, values)), finish=lambda: said.append("finished")
    )
    opened = []
    module = SimpleNamespace(init=lambda **how: opened.append(how) or run, Image=lambda image: image.size)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracked(name, tmp_path)
    tracked(name, tmp_path, step=3)
    assert opened[0] == opened[1] and opened[0]["resume"] == "allow"
    assert opened[0].get("mode") == ("offline" if name == "wandb" else None)
    assert opened[0]["name"].startswith(tmp_path.name)
    assert said[:5] == [
        (1, {"loss": 1}),
        (2, {"loss": 1 / 2}),
        (3, {"loss": 1 / 3}),
        (3, {"samples": (4, 4)}),
        "finished",
    ]
    module.init = lambda **how: 1 / 0
    with pytest.raises(DigitError, match=f"--tracker {name} does not start|tracker {name}"):
        Trackers([name], tmp_path, 0)


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [each for each in sys.modules if each.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it looks where to write when it is imported
    tracked("trackio", tmp_path / "run")
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("digit")
    rows = SQLiteStorage.get_logs("digit", name)
    assert [row["loss"] for row in rows if "loss" in row] == [1, 1 / 2, 1 / 3]
    assert any("samples" in row for row in rows)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "run").mkdir()
    tracked("wandb", tmp_path / "run")
    (file,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 20  # a process of its own writes
    while b"loss" not in file.read_bytes() and time.monotonic() < end:
        time.sleep(0.1)
    assert b"loss" in file.read_bytes()
    (media,) = tmp_path.glob("run/wandb/offline-run-*/files/media/images/samples_*.png")
    with Image.open(media) as image:
        assert image.size == (4, 4)


def test_one_that_is_absent_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DigitError, match="wandb is not installed: pip install wandb, or leave it out"):
        Trackers(["wandb"], tmp_path, 0)

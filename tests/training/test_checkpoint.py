import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from digit.errors import DigitError
from digit.training import checkpoint
from digit.training.config import OptimizerConfig
from digit.training.log import read
from digit.training.loop import TrainConfig, train

from .stages import data, make, same

CONFIG = TrainConfig(steps=8, batch=6, optimizer=OptimizerConfig(warmup=2), log_every=2, save_every=4)

SAVES_WITHOUT_END = """
import sys, torch
from pathlib import Path
from digit.training import checkpoint
folder, tensors = Path(sys.argv[1]), {"w": torch.randn(200_000)}
for step in range(1, 10**6):
    checkpoint.save(folder, step, model=tensors, optimizer=tensors, state={}, keep=2)
    if step == 1:
        print("go", flush=True)
"""


def write(folder, step, keep=3):
    tensors = {"w": torch.full((4,), float(step))}
    return checkpoint.save(folder, step, model=tensors, optimizer={}, state={"note": step}, keep=keep)


def test_round_trip_and_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step, keep=2)
    assert [path.name for path in checkpoint.paths(tmp_path)] == ["step-0000003", "step-0000004"]
    found = checkpoint.load_newest(tmp_path, warn=pytest.fail)
    assert found is not None and found.step == 4 and found.state["note"] == 4
    assert torch.equal(found.model["w"], torch.full((4,), 4.0))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_state_is_passed_over(tmp_path, name, damage):
    write(tmp_path, 1)
    path = write(tmp_path, 2) / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[0] ^= 1
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    if damage == "remove":
        path.unlink()
    said = []
    found = checkpoint.load_newest(tmp_path, warn=said.append)
    assert found is not None and found.step == 1 and len(said) == 1 and name in said[0]


def test_no_state_is_none_and_only_damaged_ones_are_an_error(tmp_path):
    assert checkpoint.load_newest(tmp_path, warn=pytest.fail) is None
    (write(tmp_path, 1) / "model.safetensors").unlink()
    with pytest.raises(DigitError, match="none of the 1 states"):
        checkpoint.load_newest(tmp_path, warn=lambda _: None)


def test_a_full_disk_leaves_the_old_state_and_one_sentence(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DigitError, match="No space left on device"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001"]
    assert checkpoint.load(tmp_path / "step-0000001").step == 1


def test_killed_while_saving_leaves_a_whole_state(tmp_path):
    command = [sys.executable, "-c", SAVES_WITHOUT_END, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"go\n"  # one is written
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    with checkpoint.hold(tmp_path):
        assert not list(tmp_path.glob(".tmp-*"))
        found = checkpoint.load_newest(tmp_path, warn=pytest.fail)
    assert found is not None and found.step >= 1


def test_a_second_process_on_the_same_folder_is_refused(tmp_path):
    with checkpoint.hold(tmp_path / "state"), pytest.raises(DigitError, match="another process is training"):
        train(make(), data, CONFIG, tmp_path, device="cpu", progress=False)


def test_a_link_to_elsewhere_is_no_place_for_states(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state").symlink_to(tmp_path / "away")
    with (
        pytest.raises(DigitError, match="is a link to a folder elsewhere"),
        checkpoint.hold(tmp_path / "run/state"),
    ):
        pass
    assert not list((tmp_path / "away").iterdir())


def test_training_goes_on_from_the_last_whole_state_and_says_so(tmp_path):
    whole = train(make(), data, replace(CONFIG, steps=12), tmp_path / "whole", device="cpu", progress=False)
    train(make(), data, CONFIG, tmp_path / "run", device="cpu", progress=False)
    newest = tmp_path / "run/state/step-0000008/model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    again = train(make(), data, replace(CONFIG, steps=12), tmp_path / "run", device="cpu", progress=False)
    assert same(whole, again)
    events = [record["event"] for record in read(tmp_path / "run/log.jsonl") if "event" in record]
    assert "damaged" in events[0] and events[1] == "resumed from step-0000004"
    assert (tmp_path / "run/loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda kept: kept.pop("adam.w.exp_avg"), "the moments of w are exp_avg_sq, step"),
        (lambda kept: kept.update({"adam.w.more": torch.zeros(4)}), "the moments of w are"),
        (lambda kept: kept.update({"adam.w.exp_avg": torch.zeros(1)}), r"adam.w.exp_avg has shape \(1,\)"),
        (lambda kept: kept.update({"adam.v.exp_avg": torch.zeros(4)}), "v"),
    ],
)
def test_moments_that_are_not_all_there_are_refused(change, what):
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight])
    weight.square().sum().backward()
    optimizer.step()
    kept = dict(checkpoint.optimizer_tensors(optimizer, {weight: "w"}))
    checkpoint.load_optimizer(optimizer, {weight: "w"}, kept)
    change(kept)
    with pytest.raises((KeyError, ValueError), match=what):
        checkpoint.load_optimizer(optimizer, {weight: "w"}, kept)

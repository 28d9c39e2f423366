"""States and artifacts are written beside the training, and are those of one step all the same."""

import errno
import os
import threading
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from digit.errors import DigitError
from digit.tensors import read_safetensors
from digit.training import checkpoint, log
from digit.training.config import OptimizerConfig
from digit.training.log import read
from digit.training.loop import TrainConfig, train
from digit.training.save import Snapshot, Twin, Writer
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig, VQGANLossConfig
from digit.vqgan_loss import VQGANLoss

from .stages import Plain, data, make, same

CONFIG = TrainConfig(
    steps=12, batch=6, optimizer=OptimizerConfig(lr=1e-2, warmup=4), log_every=3, save_every=4, ema=0.9
)

LONG = 120.0  # seconds after which something is taken to hang, however busy the machine


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(log, "draw", lambda records, path: None)  # half of the time of such short runs


def run(out, config=CONFIG, stage=None, **arguments):
    arguments = {"data": data} | arguments
    return train(stage or make(), config=config, out=out, device="cpu", progress=False, **arguments)


def test_training_goes_on_while_a_state_is_written(tmp_path, monkeypatch):
    run(tmp_path / "a", replace(CONFIG, steps=8))
    is_writing, may_write = threading.Event(), threading.Event()
    write_tensors, inside = checkpoint.write_safetensors_atomic, []

    def held(path, tensors):
        inside.append(path)
        is_writing.set()
        assert may_write.wait(LONG)
        return write_tensors(path, tensors)

    def watched(step):
        if step == 7:  # three updates after the state of step 4 was begun
            assert is_writing.wait(LONG)
            assert len(inside) == 1 and not list((tmp_path / "b/state").glob("step-*"))
            may_write.set()
        return data(step)

    monkeypatch.setattr(checkpoint, "write_safetensors_atomic", held)
    run(tmp_path / "b", replace(CONFIG, steps=8), data=watched)
    for name in ("model", "optimizer"):
        for step in (4, 8):
            file = f"state/step-{step:07d}/{name}.safetensors"
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


class Tied(nn.Module):
    """One table that reads and predicts, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight

    def loss(self, batch):
        return (self.last(torch.relu(self.first(batch.x)))[:, :2] - batch.y).pow(2).mean()


def test_on_save_gets_weights_that_do_not_move(tmp_path):
    """The average of that step, whatever the training does meanwhile; also where a table has two names."""
    far, late = threading.Event(), {}

    def watched(step):
        if step == 7:
            far.set()
        return data(step)

    def on_save(stage, path):
        assert not stage.training and not torch.is_grad_enabled()
        if path.name == "step-0000004":
            assert far.wait(LONG)
        late[path.name] = {name: value.clone() for name, value in stage.state_dict().items()}

    trained = run(tmp_path, stage=Tied(), data=watched, on_save=on_save, config=replace(CONFIG, keep=9))
    assert list(late) == ["step-0000004", "step-0000008", "step-0000012"]
    for name, weights in late.items():
        average = read_safetensors(tmp_path / "state" / name / "optimizer.safetensors")
        assert all(torch.equal(value, average["average.first.weight"]) for value in weights.values())
    assert torch.equal(trained.first.weight, late["step-0000012"]["last.weight"])


def test_the_twin_of_a_vqgan_with_its_frozen_network():
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)

        def forward(self, pixels):
            return [self.convolution(pixels)]

    shape = VQGANConfig(image_size=16, width=8, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4)
    stage = VQGANLoss(VQGAN(shape), VQGANLossConfig(discriminate_maps=True), Frozen())
    twin, snapshot = Twin(stage), Snapshot()
    with torch.no_grad():
        for tensor in stage.state_dict().values():
            tensor.fill_(1)
    taken = snapshot.take(stage.state_dict())
    before = {name: tensor.data_ptr() for name, tensor in taken.items()}
    with torch.no_grad():
        for tensor in stage.state_dict().values():
            tensor.zero_()
    average = {"vqgan.decoder.conv_out.weight": torch.full_like(stage.vqgan.decoder.conv_out.weight, 7.0)}
    filled = twin.fill(taken, average).state_dict()
    for name, tensor in filled.items():
        assert torch.equal(tensor, average.get(name, taken[name])), name
    again = snapshot.take(stage.state_dict())
    assert {name: tensor.data_ptr() for name, tensor in again.items()} == before
    assert not any(tensor.any() for tensor in again.values())


def test_a_write_that_fails_stops_the_training_soon_and_leaves_the_state_before(tmp_path, monkeypatch):
    works, seen, write_tensors, start = [], [], checkpoint.write_safetensors_atomic, Writer.start

    def noted(writer, work):
        start(writer, work)
        works.append(writer._work)

    def full(path, tensors):
        if "step-0000008" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_tensors(path, tensors)

    def watched(step):
        if step == 8:
            assert works[-1].exception(LONG) is not None
        seen.append(step)
        return data(step)

    monkeypatch.setattr(Writer, "start", noted)
    monkeypatch.setattr(checkpoint, "write_safetensors_atomic", full)
    with pytest.raises(DigitError, match=r"step-0000008 cannot be written .*No space left.* intact"):
        run(tmp_path, data=watched, config=replace(CONFIG, keep=1))
    assert seen == list(range(9))
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "state").iterdir() if path.is_dir()] == ["step-0000004"]
    assert same(run(tmp_path / "whole"), run(tmp_path))


def test_what_on_save_raises_arrives_in_the_training(tmp_path):
    def on_save(stage, path):
        raise DigitError("no place for the artifact")

    with pytest.raises(DigitError, match="no place"):
        run(tmp_path, on_save=on_save)


def test_an_artifact_that_a_kill_prevented_is_written_on_resuming(tmp_path):
    """A kill between the last state and its artifact: nothing is left to train, and it comes all the same."""
    run(tmp_path, replace(CONFIG, steps=4))
    (tmp_path / "status.json").unlink()
    states = {path: path.stat().st_mtime_ns for path in (tmp_path / "state").rglob("*.safetensors")}
    saved = []
    run(tmp_path, replace(CONFIG, steps=4), on_save=lambda stage, path: saved.append(path.name))
    assert saved == ["step-0000004"]
    assert states == {path: path.stat().st_mtime_ns for path in (tmp_path / "state").rglob("*.safetensors")}


def test_the_log_says_how_long_saving_held_training_up(tmp_path, monkeypatch):
    save, wait, waited_for = checkpoint.save, Writer.wait, threading.Event()

    def waits(writer):
        if writer._work is not None and not writer._work.done():
            waited_for.set()
        wait(writer)

    def slow(*arguments, **options):
        assert waited_for.wait(LONG)  # by the next save
        time.sleep(0.5)
        return save(*arguments, **options)

    monkeypatch.setattr(Writer, "wait", waits)
    monkeypatch.setattr(checkpoint, "save", slow)
    run(tmp_path, replace(CONFIG, steps=6, save_every=2, log_every=1), stage=Plain())
    held = [record["save_seconds"] for record in read(tmp_path / "log.jsonl")]
    assert held[0] == held[1] == held[3] == held[5] == 0
    # The first save is a copy; the next waits until the first is written.
    assert held[2] > 0 and held[4] >= 0.5


def test_keeping_the_newest_never_removes_a_whole_state_for_a_damaged_one(tmp_path):
    run(tmp_path, replace(CONFIG, keep=3))
    for name in ("step-0000008", "step-0000012"):
        (tmp_path / "state" / name / "model.safetensors").write_bytes(b"")
    run(tmp_path, replace(CONFIG, steps=6, save_every=1, keep=1))
    assert [path.name for path in checkpoint.paths(tmp_path / "state")] == ["step-0000006"]
    assert checkpoint.load_newest(tmp_path / "state", warn=pytest.fail) is not None


def test_what_a_killed_thread_leaves_is_swept(tmp_path):
    run(tmp_path, replace(CONFIG, steps=4))
    places = [tmp_path, tmp_path / "samples", tmp_path / "state", tmp_path / "state/step-0000004"]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / ".tmp-0123abcd-model.safetensors").write_bytes(b"half")
    run(tmp_path, replace(CONFIG, steps=5))
    assert not list(tmp_path.rglob(".tmp-*"))

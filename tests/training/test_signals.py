"""A signal in any phase: the state of the last finished update is saved, and the run goes on as if uncut."""

import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from digit.errors import Terminated
from digit.training import checkpoint, log
from digit.training.config import OptimizerConfig
from digit.training.log import read_status
from digit.training.loop import TrainConfig, train
from digit.training.update import Updater

from .stages import Regressor, data, records, same

CONFIG = TrainConfig(
    steps=9,
    batch=6,
    optimizer=OptimizerConfig(lr=1e-2, warmup=4),
    log_every=2,
    save_every=4,
    evaluate_every=3,
    sample_every=3,
    ema=0.9,
)


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(log, "draw", lambda records, path: None)


class Stage(Regressor):
    """Something long in the loss, where the test wants it."""

    within = staticmethod(lambda batch: None)

    def loss(self, batch):
        error = super().loss(batch)
        self.within(batch)
        return error


def run(out, stage=None, config=CONFIG, **arguments):
    def evaluate(stage, step):
        yield "score", float(stage.first.weight.sum())

    if stage is None:
        torch.manual_seed(0)
        stage = Stage()
    arguments = {
        "data": data,
        "evaluate": evaluate,
        "picture": lambda stage, step: Image.new("RGB", (2, 2)),
    } | arguments
    return train(stage, config=config, out=out, device="cpu", progress=False, **arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return run(out), records(out)


class Interrupted:
    """Sends a signal once, while something lasts that would last for a minute."""

    def __init__(self, number: int) -> None:
        self.number, self.sent, self.lasted = number, False, 0.0

    def during(self, seconds: float = 60.0) -> None:
        if self.sent:
            return
        self.sent = True
        timer = threading.Timer(0.05, os.kill, (os.getpid(), self.number))
        timer.start()
        begun = time.monotonic()
        try:
            deadline = begun + seconds
            while time.monotonic() < deadline:
                time.sleep(0.01)
            timer.join()  # sent, whatever else the machine does
        finally:
            self.lasted = time.monotonic() - begun


PHASES = {  # where, at which finished update, and whether that is saved
    "data": 5,
    "step": 6,
    "evaluation": 6,
    "sampling": 6,
    "copying": 8,
    "writing": 6,
    "compiling": 0,
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_every_phase(tmp_path, monkeypatch, whole, phase, number):
    signalled, writing = Interrupted(number), threading.Event()
    stage = Stage()
    torch.manual_seed(0)
    stage = Stage()

    def watched(step):
        if phase == "data" and step == 5:
            signalled.during()
        if phase == "writing" and step == 5:
            assert writing.wait(120)
            signalled.during()
        return data(step)

    def evaluate(trained, step):
        if phase == "evaluation" and step == 6:
            signalled.during()
        yield "score", float(trained.first.weight.sum())

    def picture(trained, step):
        if phase == "sampling" and step == 6:
            signalled.during()
        return Image.new("RGB", (2, 2))

    def within(batch):
        if not torch.is_grad_enabled() or batch.x.is_meta:
            return
        if phase == "step" and torch.equal(batch.x, data(5).x):
            signalled.during(0.2)  # an update is finished
        if phase == "compiling" and torch.equal(batch.x, data(0).x):
            signalled.during()

    stage.within = within
    tensors, write_tensors = Updater.optimizer_tensors, checkpoint.write_safetensors_atomic

    def copied(updater):
        if phase == "copying" and updater.step == 8:
            signalled.during(0.2)
        return tensors(updater)

    def held(path, tensors):
        if phase == "writing" and not signalled.sent:
            writing.set()
            time.sleep(0.5)
        return write_tensors(path, tensors)

    monkeypatch.setattr(Updater, "optimizer_tensors", copied)
    monkeypatch.setattr(checkpoint, "write_safetensors_atomic", held)
    with pytest.raises(KeyboardInterrupt) as raised:
        run(tmp_path, stage, data=watched, evaluate=evaluate, picture=picture)
    assert isinstance(raised.value, Terminated) == (number == signal.SIGTERM)
    assert signalled.sent and signalled.lasted < 30  # of a minute
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    step = {**PHASES, "writing": 5}[phase]
    status = read_status(tmp_path)
    assert status is not None and (status.reason, status.step) == ("interrupted", step)
    states = checkpoint.paths(tmp_path / "state")
    assert [path.name for path in states][-1:] == [f"step-{step:07d}"] * (step > 0)
    assert not list(tmp_path.rglob(".tmp-*"))
    again = run(tmp_path)
    assert same(whole[0], again)
    assert records(tmp_path) == whole[1]


def test_a_signal_while_operations_are_counted_waits_for_the_end_of_it(tmp_path):
    """Broken off while it puts the stage's tensors back it would leave them on the meta device."""
    counted = []

    def within(batch):
        if batch.x.is_meta:
            signal.raise_signal(signal.SIGTERM)
            counted.append(True)

    with pytest.raises(Terminated):
        run(tmp_path, make_stage(within))
    assert counted == [True]
    assert [path.name for path in checkpoint.paths(tmp_path / "state")] == ["step-0000000"]


def test_a_signal_at_the_end_is_not_lost(tmp_path):
    def on_save(stage, path):
        if path.name == "step-0000009":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated):
        run(tmp_path, on_save=on_save)
    run(tmp_path)
    status = read_status(tmp_path)
    assert status is not None and status.finished


def test_one_key_press_that_comes_twice_under_torchrun_saves(tmp_path, monkeypatch):
    """The terminal sends Ctrl-C to all processes, and torchrun's agent passes its own on to them."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    def within(batch):
        if torch.is_grad_enabled() and torch.equal(batch.x, data(5).x):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    stage = make_stage(within)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage)
    assert checkpoint.paths(tmp_path / "state")[-1].name == "step-0000006"


def make_stage(within):
    stage = Stage()
    stage.within = within
    return stage


def test_interrupted_after_a_save_needs_no_second_one(tmp_path, monkeypatch):
    written, save = [], checkpoint.save

    def noted(folder, step, **options):
        written.append(step)
        return save(folder, step, **options)

    monkeypatch.setattr(checkpoint, "save", noted)

    def stops(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return data(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, data=stops)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, data=stops)  # resumed, and stopped before an update
    assert written == [4]
    assert read_status(tmp_path).seconds > 0


def test_two_trainings_in_a_thread(tmp_path):
    """Handlers belong to the main thread: elsewhere a training goes without."""
    out = []
    thread = threading.Thread(target=lambda: out.append(run(tmp_path, config=replace(CONFIG, steps=2))))
    thread.start()
    thread.join(120)
    assert len(out) == 1

"""One update: what speeds it up, what a state says of that, and the seed of its randomness."""

import math
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import pytest
import torch

from digit.files import read_json, sha256_file, write_json_atomic
from digit.prior import Prior, PriorConfig
from digit.training import checkpoint, log, update
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.log import read
from digit.training.loop import train
from digit.training.update import Updater, seed_all

from .stages import Plain, data, make, records, same

ADAM = OptimizerConfig(lr=1e-2, warmup=4)
CONFIG = TrainConfig(steps=17, batch=6, optimizer=ADAM, log_every=5, save_every=4, ema=0.9)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(log, "draw", lambda records, path: None)


def run(out, config=CONFIG, stage=None):
    return train(stage or make(), data, config, out, device="cpu", progress=False)


def events(out):
    return [record["event"] for record in read(out / "log.jsonl") if "event" in record]


class Parts(Plain):
    compiled = False

    def compile_parts(self):
        self.compiled = True


def test_unasked_the_stage_is_compiled_where_that_pays(tmp_path, monkeypatch):
    unpaid, asked_not_to, paid = Parts(), Parts(), Parts()
    run(tmp_path / "a", stage=unpaid)
    monkeypatch.setattr(update, "usable", lambda device: True)
    run(tmp_path / "b", replace(CONFIG, compile=False), asked_not_to)
    run(tmp_path / "c", replace(CONFIG, precision="bf16"), paid)
    assert (unpaid.compiled, asked_not_to.compiled, paid.compiled) == (False, False, True)
    assert math.isfinite(records(tmp_path / "c")[-1]["loss"])


def test_where_it_cannot_be_a_line_says_so(monkeypatch):
    updater = Updater(Plain(), CONFIG, CPU)
    assert updater.accelerate(ExitStack()) == []  # nobody expects it of a CPU
    updater.device = GPU
    (line,) = updater.accelerate(ExitStack())
    assert "Triton is not installed" in line


def test_a_state_from_before_goes_on_exactly_and_says_what_changed(tmp_path, monkeypatch):
    """As versions wrote it that had `kernels`, did not skip, and compiled where they were asked to."""
    whole = run(tmp_path / "whole")
    assert run(tmp_path / "old", replace(CONFIG, steps=8)) is not None
    state = tmp_path / "old/state/step-0000008"
    written = read_json(state / "state.json")
    for key in ("skipped", "streak", "compiled", "kernels"):
        written.pop(key)
    written["config"] |= {"compile": False, "kernels": False, "fsdp_of_old": True}
    del written["config"]["optimizer"]["epsilon"]
    write_json_atomic(state / "state.json", written, checksum=True)
    assert written["files"] == {path.name: sha256_file(path) for path in state.glob("*.safetensors")}
    (tmp_path / "old/status.json").unlink()
    assert same(whole, run(tmp_path / "old"))
    assert events(tmp_path / "old") == ["resumed from step-0000008"]
    monkeypatch.setattr(update, "usable", lambda device: True)
    updater = Updater(make(), replace(CONFIG, steps=18), CPU)
    said = updater.restore(checkpoint.load(tmp_path / "old/state/step-0000017"))
    assert said == ["compile is True from here, it was False"]
    assert updater.kernels is False


@pytest.mark.parametrize(("before", "asked"), [(None, True), (True, True), (False, False)])
def test_a_run_that_began_without_kernels_goes_on_without(before, asked, monkeypatch):
    called = []
    monkeypatch.setattr(update, "usable", lambda device: True)
    monkeypatch.setattr(update, "use", lambda stage, device, **how: called.append(how))
    updater = Updater(Prior(PriorConfig(8, 4, width=8, layers=1, heads=2)), CONFIG, CPU)
    updater.kernels = before
    monkeypatch.setattr(updater, "compiled", nullcontext)
    with ExitStack() as until:
        assert updater.accelerate(until) == []
    assert called == [{"bf16": False, "sharded": False, "kernels": asked}]
    assert updater.state()["kernels"] is asked


def test_only_the_settings_that_differ_are_named(tmp_path):
    run(tmp_path)
    other = replace(ADAM, lr=2e-2, warmup=5, betas=(0.9, 0.98))
    run(tmp_path, replace(CONFIG, steps=18, optimizer=other))
    assert events(tmp_path) == [
        "lr is 0.02 from here, it was 0.01",
        "warmup is 5 from here, it was 4",
        "resumed from step-0000017",
    ]


def test_a_warm_up_that_does_not_end_is_said(tmp_path):
    run(tmp_path, replace(CONFIG, steps=3))
    (line,) = events(tmp_path)
    assert "warm-up of 4 updates is longer than the run of 3" in line and "never reaches 0.01" in line


def test_the_seed_is_that_of_the_place():
    drawn = {}
    for place in ((0, 0, 0), (0, 0, 4), (0, 1, 0), (1, 0, 0), (0, 0, 0)):
        seed_all(*place, device=CPU)
        value = torch.rand(2)
        assert torch.equal(drawn.setdefault(place, value), value)
    assert len({tuple(value.tolist()) for value in drawn.values()}) == 4

"""Updates whose loss or gradient is not finite: skipped, counted, and after several in a row the end."""

import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from digit.errors import DigitError
from digit.training import log
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.log import read
from digit.training.loop import train
from digit.training.update import Updater

from .stages import Plain, data, make, same

ADAM = OptimizerConfig(lr=1e-2, warmup=4)
SGD = OptimizerConfig(kind="sgd", lr=1e-2, warmup=4, betas=(0.9, 0.0))
CONFIG = TrainConfig(steps=17, batch=6, optimizer=ADAM, log_every=5, save_every=4, ema=0.9)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(log, "draw", lambda records, path: None)


def poisoned(*steps, value=math.nan):
    """The training data with pictures that are not numbers at `steps`."""

    def give(step):
        batch = data(step)
        return batch._replace(x=batch.x * value) if step in steps else batch

    return give


def run(out, given, config=CONFIG):
    return train(make(), given, config, out, device="cpu", progress=False)


def everything(updater):
    tensors = {**updater.stage.state_dict(), **updater.optimizer_tensors()}
    return {name: tensor.clone() for name, tensor in tensors.items() if tensor.is_floating_point()}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("adam", [ADAM, SGD], ids=["adamw", "sgd"])
def test_a_skipped_update_changes_nothing_but_counters(adam, first, fused):
    """Weights, moments, average, batch statistics and the optimizer's step; a plain and a fused optimizer."""
    updater = Updater(make(), replace(CONFIG, optimizer=adam), CPU)
    if fused:
        groups = updater.optimizer.param_groups
        kind = torch.optim.AdamW if adam.kind == "adamw" else torch.optim.SGD
        options = {} if adam.kind == "adamw" else {"momentum": 0.9, "nesterov": True}
        updater.optimizer = kind([{**group, "fused": True} for group in groups], fused=True, **options)
        updater._clips_itself = True
        if adam.kind == "sgd":
            for parameter in updater.trainable:
                updater.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    if not first:
        updater.update(data(0))
    before = everything(updater)
    updater.update(poisoned(1)(1))
    after = everything(updater)
    moments = {"exp_avg", "exp_avg_sq", "step", "momentum_buffer"}
    for name, tensor in after.items():
        expected = before.get(name, torch.zeros_like(tensor))  # a fused first update makes empty moments
        assert name in before or name.rsplit(".", 1)[1] in moments
        assert torch.equal(tensor, expected), name
    updater.update(data(2))
    assert not torch.equal(everything(updater)["first.weight"], before["first.weight"])
    updater.read_losses("")
    assert (updater.step, updater.skipped, updater.streak) == (2 + (not first), 1, 0)
    assert all(math.isfinite(value) for value in updater.losses) and len(updater.losses) == updater.step - 1


def test_a_fused_optimizer_and_a_plain_one_agree_around_skips():
    stages = []
    for fused in (False, True):
        torch.manual_seed(0)
        updater = Updater(Plain(), CONFIG, CPU)
        if fused:
            groups = [{**group, "fused": True} for group in updater.optimizer.param_groups]
            updater.optimizer, updater._clips_itself = torch.optim.AdamW(groups, fused=True), True
        for step in range(9):
            updater.update(poisoned(0, 3, 4)(step))
        stages.append(everything(updater))
    torch.testing.assert_close(stages[0], stages[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("where", ["loss", "gradient", "one gradient"])
def test_it_does_not_matter_where_it_is_not_finite(where):
    class Broken(Plain):
        def loss(self, batch):
            loss = super().loss(batch)
            if where == "loss":
                return loss + math.inf
            if where == "gradient":
                return (loss - loss.detach()).sqrt()
            self.layer.bias.register_hook(lambda gradient: gradient / 0)
            return loss

    updater = Updater(Broken(), replace(CONFIG, ema=None), CPU)
    before = everything(updater)
    updater.update(data(0))
    updater.read_losses("")
    assert updater.skipped == 1 and updater.losses == []
    assert all(torch.equal(value, before[name]) for name, value in everything(updater).items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_log_counts_and_training_goes_on(tmp_path, value):
    stage = run(tmp_path, poisoned(2, 8, 9, 10, 11, value=value))
    records = {record["step"]: record for record in read(tmp_path / "log.jsonl") if "loss" in record}
    assert [record.get("skipped", 0) for record in records.values()] == [1, 3, 5, 5]
    assert all(math.isfinite(record["loss"]) for record in records.values())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in stage.state_dict().values())


def test_an_interval_of_nothing_but_skips_has_no_loss(tmp_path):
    run(tmp_path, poisoned(*range(5, 10)), replace(CONFIG, skips=6))
    records = [record for record in read(tmp_path / "log.jsonl") if "loss" in record]
    assert records[1]["loss"] is None and records[1]["skipped"] == 5 and records[2]["loss"] > 0


def test_resuming_amid_skips_is_exact(tmp_path):
    whole = run(tmp_path / "whole", poisoned(2, 6, 7, 8, 9))
    stops = [3, 8]

    def signalled(step):
        if step in stops:
            stops.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return poisoned(2, 6, 7, 8, 9)(step)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", signalled)
    assert same(whole, run(tmp_path / "parts", signalled))
    logs = [
        [(r["step"], r["loss"], r.get("skipped")) for r in read(tmp_path / name / "log.jsonl") if "loss" in r]
        for name in ("whole", "parts")
    ]
    assert logs[0] == logs[1] and logs[0][-1][2] == 5


@pytest.mark.parametrize("saved", [4, 3])
def test_several_in_a_row_stop_the_run_and_name_the_last_good_state(tmp_path, saved):
    """The row is counted across a state in its midst, and across a resume."""
    config = replace(CONFIG, skips=3, save_every=saved)
    for _ in range(2):
        with pytest.raises(
            DigitError, match=r"update 10 \(loss nan.*last of 3 in a row.*good state is .*-0000"
        ):
            run(tmp_path, poisoned(*range(7, 17)), config)
    states = sorted(path.name for path in (tmp_path / "state").glob("step-*"))
    assert states[-1] == f"step-000000{8 if saved == 4 else 9}"
    assert read(tmp_path / "log.jsonl")[-1]["step"] < 10
    run(tmp_path, data, config)  # other data: the weights were as good as before


class Statistics(nn.Module):
    """Writes a buffer, one that it replaces, and a frozen parameter, as a codebook would."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.table = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.register_buffer("replaced", torch.zeros(4))
        self.register_buffer("passing", torch.zeros(4), persistent=False)

    def loss(self, batch):
        mean = batch.x.mean(0)
        with torch.no_grad():
            self.table.lerp_(mean, 0.5)
        self.replaced = self.replaced + mean
        self.passing += mean
        return (self.layer(batch.x) - batch.y).square().mean()


def test_what_the_loss_writes_is_put_back():
    updater = Updater(Statistics(), replace(CONFIG, ema=None), CPU)
    updater.update(data(0))
    kept = [updater.stage.table.clone(), updater.stage.replaced.clone(), updater.stage.passing.clone()]
    updater.update(poisoned(1)(1))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            kept, [updater.stage.table, updater.stage.replaced, updater.stage.passing], strict=True
        )
    )
    assert kept[0].any() and kept[1].any() and kept[2].any()

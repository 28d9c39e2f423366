import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from digit.errors import DigitError
from digit.training import log
from digit.training.config import OptimizerConfig
from digit.training.log import read, read_status
from digit.training.loop import TrainConfig, train

from .stages import Batch, Plain, data, make, same

ADAM = OptimizerConfig(lr=1e-2, warmup=4)
CONFIG = TrainConfig(steps=17, batch=6, optimizer=ADAM, log_every=5, save_every=4, ema=0.9)


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(log, "draw", lambda records, path: None)  # half of the time of such short runs


def run(out, config=CONFIG, stage=None, **arguments):
    return train(
        stage or make(), arguments.pop("data", data), config, out, device="cpu", progress=False, **arguments
    )


def losses(out):
    return [(record["step"], record["loss"]) for record in read(out / "log.jsonl") if "loss" in record]


def test_interrupted_runs_equal_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole")
    for resumptions in (1, 2, 3):
        out = tmp_path / str(resumptions)
        stops = [3, 7, 13][:resumptions]

        def signalled(step, stops=stops):
            if step in stops:
                stops.remove(step)
                os.kill(os.getpid(), signal.SIGTERM)
            return data(step)

        for _ in range(resumptions):
            with pytest.raises(KeyboardInterrupt):
                run(out, data=signalled)
            status = read_status(out)
            assert status is not None and status.reason == "interrupted" and not status.finished
        assert same(whole, run(out, data=signalled))
        assert losses(out) == losses(tmp_path / "whole")


def test_killed_between_saves_goes_back_to_the_last_state(tmp_path):
    class Killed(Exception):
        pass

    def dies(step):
        if step == 11:
            raise Killed
        return data(step)

    with pytest.raises(Killed):
        run(tmp_path / "b", data=dies)
    assert [path.name for path in sorted((tmp_path / "b/state").glob("step-*"))] == [
        "step-0000004",
        "step-0000008",
    ]
    assert losses(tmp_path / "b")[-1][0] == 10
    assert same(run(tmp_path / "a"), run(tmp_path / "b"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert [step for step, _ in losses(tmp_path / "b")] == [5, 10, 15, 17]


def test_measuring_does_not_change_training(tmp_path):
    seen = []

    def evaluate(stage, step):
        assert not stage.training and not torch.is_grad_enabled()
        torch.rand(step)
        seen.append(step)
        yield "score", float(step)

    def picture(stage, step):
        return Image.new("RGB", (4, 4))

    config = replace(CONFIG, evaluate_every=5, sample_every=10)
    measured = run(tmp_path / "b", config, evaluate=evaluate, picture=picture)
    assert same(run(tmp_path / "a"), measured)
    assert seen == [5, 10, 15, 17]
    assert [record["score"] for record in read(tmp_path / "b/log.jsonl") if "score" in record] == seen
    assert sorted(path.name for path in (tmp_path / "b/samples").iterdir()) == [
        "step-000010.png",
        "step-000017.png",
    ]


def test_an_evaluation_that_a_signal_broke_off_is_done_on_resuming(tmp_path):
    def evaluate(stage, step):
        if step == 10 and not (tmp_path / "state/step-0000010").exists():
            os.kill(os.getpid(), signal.SIGINT)
        yield "score", float(step)

    config = replace(CONFIG, evaluate_every=5)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, evaluate=evaluate)
    status = read_status(tmp_path)
    assert status is not None and status.step == 10
    run(tmp_path, config, evaluate=evaluate)
    assert [record["score"] for record in read(tmp_path / "log.jsonl") if "score" in record] == [
        5,
        10,
        15,
        17,
    ]


def test_a_second_signal_leaves_at_once_without_saving(tmp_path):
    class Twice(Plain):
        batches = 0

        def loss(self, batch):
            if batch.x.device.type == "cpu" and torch.equal(batch.x, data(2).x):
                signal.raise_signal(signal.SIGINT)
                self.batches += 1  # one signal alone is no reason to leave here
                signal.raise_signal(signal.SIGINT)
                self.batches += 1
            return super().loss(batch)

    def saved(stage, path):
        raise AssertionError

    stage = Twice()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage=stage, on_save=saved)
    assert stage.batches == 1
    assert not list((tmp_path / "state").glob("step-*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_finished_returns_at_once_with_the_same_weights(tmp_path):
    first = run(tmp_path)

    def never(step):
        raise AssertionError

    again = run(tmp_path, stage=make(1), data=never, on_save=never)
    assert same(first, again) and not again.training
    status = read_status(tmp_path)
    assert status is not None and status.finished and status.step == 17


def test_more_steps_extend_a_finished_run(tmp_path):
    run(tmp_path)
    run(tmp_path, replace(CONFIG, steps=21))
    assert [step for step, _ in losses(tmp_path)] == [5, 10, 15, 17, 20, 21]


def test_wall_clock_limit_leaves_a_run_that_resumes(tmp_path):
    stopped = run(tmp_path, replace(CONFIG, wall_clock_limit=0.0))
    status = read_status(tmp_path)
    assert (
        status is not None
        and not status.finished
        and status.reason == "wall-clock limit"
        and status.step == 0
    )
    assert isinstance(stopped, nn.Module)
    assert same(run(tmp_path / "whole"), run(tmp_path))
    assert json.loads((tmp_path / "status.json").read_text())["finished"] is True


def test_micro_batches_equal_the_whole_batch(tmp_path):
    stages = []
    for micro in (None, 6, 4, 1):
        torch.manual_seed(0)
        stage = Plain().double()
        config = replace(CONFIG, micro_batch=micro, ema=None)
        wide = lambda step: Batch(*[part.double() for part in data(step)[:2]])  # noqa: E731
        stages.append(run(tmp_path / str(micro), config, stage, data=wide))
    for other in stages[1:]:
        torch.testing.assert_close(other.state_dict(), stages[0].state_dict(), rtol=1e-9, atol=1e-12)


def test_a_batch_of_another_size_is_refused(tmp_path):
    with pytest.raises(DigitError, match="5 samples where batch is 6"):
        run(tmp_path, data=lambda step: data(step, batch=5))


def test_on_save_gets_the_average_and_training_goes_on_with_its_own(tmp_path):
    saved = {}

    def on_save(stage, path):
        saved[path.name] = stage.first.weight.detach().clone()

    stage = run(tmp_path, on_save=on_save)
    assert list(saved) == ["step-0000004", "step-0000008", "step-0000012", "step-0000016", "step-0000017"]
    assert torch.equal(saved["step-0000017"], stage.first.weight)
    plain = run(tmp_path / "plain", replace(CONFIG, ema=None))
    assert not torch.equal(plain.first.weight, stage.first.weight)


def test_another_model_in_the_folder_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(DigitError, match="another model"):
        run(tmp_path, stage=make(width=16))


def test_changed_settings_are_noted(tmp_path):
    run(tmp_path)
    run(tmp_path, replace(CONFIG, steps=18, clip=0.5))
    events = [record["event"] for record in read(tmp_path / "log.jsonl") if "event" in record]
    assert events == ["clip is 0.5 from here, it was 1.0", "resumed from step-0000017"]


def test_the_callers_randomness_is_untouched(tmp_path):
    stage = make()
    before = torch.get_rng_state()
    run(tmp_path, stage=stage)
    assert torch.equal(before, torch.get_rng_state())

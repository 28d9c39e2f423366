import re

import pytest

import digit.progress
from digit.errors import DigitError
from digit.training.log import Log, Status, draw, read, read_status, write_status

LINE = {"loss": 1.5, "lr": 1e-3, "samples_per_second": 1234.0, "eta_seconds": 61.0}


def write(out, steps, **options):
    with Log(out, step=options.pop("step", 0), steps=10, progress=False, **options) as log:
        for step in steps:
            log.record(step, LINE)


def test_going_on_from_a_step_cuts_what_came_after(tmp_path):
    write(tmp_path, [2, 4, 6])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # killed in the middle of a line
    write(tmp_path, [5, 6], step=4)
    assert [record["step"] for record in read(tmp_path / "log.jsonl")] == [2, 4, 5, 6]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with Log(tmp_path, step=0, steps=10, progress=False) as log:
        log.record(1, {"score": float("nan"), "other": 2.0})
        log.event(1, "a sentence")
    assert read(tmp_path / "log.jsonl") == [
        {"step": 1, "score": None, "other": 2.0},
        {"step": 1, "event": "a sentence"},
    ]


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 999, 11))
    monkeypatch.setattr(digit.progress.time, "monotonic", lambda: next(clock))
    with Log(tmp_path, step=4, steps=10, title="prior") as log:
        log.record(5, {**LINE, "usage": 0.75})
        log.advance(5)
        log.record(6, {"accuracy": 0.5})
        log.event(6, "[a] sentence")
        log.advance(10)
        log.record(10, {**LINE, "tflops": 412.34, "mfu": 0.4169, "stall": 0.025})
    plain = "loss 1.5000  usage 0.75  lr 1.00e-03  1,234/s"
    times = r", 0:\d\d:\d\d left, "
    assert re.fullmatch(
        f"prior: 5/10{times}{re.escape(plain)}\nprior: 6/10, accuracy 0.5\nprior: \\[a\\] sentence\n"
        f"prior: 10/10, 0:00:00 left, {re.escape(plain)}\n"
        "prior: 10/10, 0:00:00 left, loss 1.5000  lr 1.00e-03  1,234/s"
        "  412 TFLOP/s \\(MFU 41.7%\\)  waiting for data 2%\n",
        capsys.readouterr().err,
    )


def test_the_plot_has_a_panel_for_each_measurement(tmp_path):
    records = [{"step": step, "loss": 1 / step} for step in range(1, 30)] + [{"step": 10, "score": 0.5}]
    draw([{"step": 1, "loss": 1.0}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    draw(records, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_status_is_read_as_it_was_written(tmp_path):
    assert read_status(tmp_path) is None
    for reason, step, finished in (("interrupted", 3, False), ("finished", 3, False), ("finished", 5, True)):
        write_status(tmp_path, Status(step, 5, reason, 1.5))
        assert read_status(tmp_path) == Status(step, 5, reason, 1.5)
        assert read_status(tmp_path).finished is finished
    (tmp_path / "status.json").write_text("[]")
    with pytest.raises(DigitError, match="holds no object of names and values"):
        read_status(tmp_path)

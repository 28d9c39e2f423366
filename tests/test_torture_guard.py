"""What the fuzz tests watch is seen: a suite that sees nothing would lose nothing."""

import mmap
import os
import random
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from digit.errors import DigitError
from digit.files import read_json, write_json_atomic
from torture import mutations, resealed
from torture.guard import Canaries, Ended, Noted, Tally, Tree, apart
from torture.outcome import Outcome
from torture.readers import Target, check_said

NOTED = Noted(Path("/nowhere"))  # a hook stays for as long as its process


def test_a_program_that_is_started_is_noted(tmp_path):
    canaries = Canaries(tmp_path)
    environment = {"PATH": str(canaries.folder)}
    subprocess.run(["gs", "--version"], env=environment, check=True)
    subprocess.run("ls; nvidia-smi -L", shell=True, executable="/bin/sh", env=environment, check=True)
    started = [line.rpartition("/")[2] for line in canaries.take()]
    assert started == ["gs --version", "ls ", "nvidia-smi -L"] and canaries.take() == []


def test_whatever_changes_beside_the_output_is_seen(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("kept", "changed", "gone", "rights"):
        (tmp_path / name).write_text("a")
    (tmp_path / "link").symlink_to("kept")
    tree = Tree(tmp_path, beside=(tmp_path / "out",))
    assert tree.changes() == []
    (tmp_path / "out" / "new").touch()
    (tmp_path / "changed").write_text("b")
    (tmp_path / "gone").unlink()
    (tmp_path / "rights").chmod(0o600)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("changed")
    (tmp_path / "new").touch()
    found = tree.changes()
    assert found == ["changed differs", "gone is gone", "link differs", "new is new", "rights differs"]


def test_what_python_opens_and_runs_is_noted(tmp_path):
    noted = Noted(tmp_path / "out")
    (tmp_path / "out").mkdir()
    noted.on = True
    (tmp_path / "out" / "a").write_text("a")
    (tmp_path / "out" / "a").rename(tmp_path / "out" / "b")
    (tmp_path / "out" / "b").read_text()
    os.close(os.open(tmp_path / "out" / "b", os.O_RDONLY))
    assert not noted.seen and not noted.ran
    (tmp_path / "a").write_text("a")
    os.close(os.open(tmp_path / "c", os.O_WRONLY | os.O_CREAT))
    (tmp_path / "out" / "b").rename(tmp_path / "b")
    (tmp_path / "b").unlink()
    subprocess.run(["true"], check=True)
    noted.on = False
    assert [line.rpartition("/")[2] for line in noted.seen] == ["a", "c", "b", "b"]
    assert any("subprocess.Popen" in line for line in noted.ran)


def touched(megabytes: int) -> int:
    """So many megabytes of new pages: what an allocator gives may be resident already."""
    with mmap.mmap(-1, megabytes * 10**6) as pages:
        for start in range(0, len(pages), mmap.PAGESIZE):
            pages[start] = 1
        return megabytes


def test_a_process_apart_is_bounded_and_measured():
    ended = apart(lambda: print("said") or 3)
    assert (ended.code, ended.said, ended.error) == (3, "said\n", "")
    assert apart(lambda: time.sleep(9), seconds=0.2).code is None
    raised = apart(lambda: 1 // 0)
    assert raised.code == 70 and "ZeroDivisionError" in raised.error
    large = apart(lambda: touched(320) and 2)
    assert large.code == 2 and 300 < large.megabytes < 600
    assert "MemoryError" in apart(lambda: np.ones(10**9), room=10**9).error

    def busy() -> int:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        return 0

    assert 0.25 < apart(busy).seconds < 2


@pytest.mark.parametrize(
    "ended",
    [
        Ended(None, "", ""),
        Ended(70, "", "ValueError"),
        Ended(2, "no sentence", ""),
        Ended(2, f"digit: {'x' * 9000}", ""),
        Ended(2, "digit: late", "", seconds=3.0),
        Ended(2, "digit: large", "", megabytes=1500.0),
    ],
)
def test_a_bad_end_is_a_loss(ended):
    outcome = Outcome()
    Tally().take(outcome, "a case", ended)
    assert outcome.losses


def test_a_good_end_is_none():
    outcome, tally = Outcome(), Tally()
    tally.take(outcome, "a case", Ended(0, "done", ""))
    tally.take(
        outcome, "a case", Ended(2, "digit: it is damaged: copy it again", "", seconds=0.1, megabytes=3.0)
    )
    assert not outcome.losses and outcome.cases == 2 and tally.figures()["refused"] == 1


@pytest.mark.parametrize(
    "text", ["\x1b[31m", "a\x07", "\u202egpj", "\ud800", "\x9b", "x" * 4000, "a\n" * 60_000]
)
def test_what_a_terminal_would_obey_is_seen(text):
    with pytest.raises(RuntimeError, match="printed"):
        check_said(text)
    check_said("plain, \\x1b, é, 漢字, \U0001f600\n" * 50)


def _raises(folder: Path, _: Any) -> None:
    raise ValueError("a bug")


def _writes(folder: Path, _: Any) -> None:
    (folder.parent.parent / "outside").write_text("a")


def _takes_time(folder: Path, _: Any) -> None:
    until = time.process_time() + 0.6
    while time.process_time() < until:
        pass


def _takes_memory(folder: Path, _: Any) -> None:
    touched(240)


def _sleeps(folder: Path, _: Any) -> None:
    time.sleep(60)


def _runs(folder: Path, _: Any) -> None:
    subprocess.run(["true"], check=True)


def _speaks(folder: Path, _: Any) -> None:
    raise DigitError("of\ntwo lines")


@pytest.mark.parametrize(
    ("read", "loss"),
    [
        (_raises, "ValueError"),
        (_writes, "it touched"),
        (_takes_time, "it took 0."),
        (_takes_memory, "it took 24"),
        (_sleeps, "no end"),
        (_runs, "it ran"),
        (lambda folder, _: None, ""),
    ],
)
def test_the_fuzzer_sees_what_a_reader_does(read, loss, tmp_path, monkeypatch):
    (tmp_path / "specimens" / "a").mkdir(parents=True)
    target = Target("a", 1.0, "a", lambda folder, draw: "x", read)
    monkeypatch.setattr(resealed, "TARGETS", (target,))
    monkeypatch.setattr(resealed, "SECONDS", 0.5 if read is _takes_time else 9.0)
    monkeypatch.setattr(resealed, "MEGABYTES", 200)
    monkeypatch.setattr(resealed, "PATIENCE", 1.0 if read is _sleeps else 40.0)
    specimens: Any = SimpleNamespace(folder=tmp_path / "specimens")
    case = resealed.one(5, specimens, tmp_path / "work", Noted(tmp_path / "work"))
    assert loss in case.loss and bool(loss) == bool(case.loss)


def test_a_refusal_of_the_fuzzer_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "specimens" / "a").mkdir(parents=True)

    def refuses(folder: Path, _: Any) -> None:
        raise DigitError("it is damaged: copy it again")

    monkeypatch.setattr(resealed, "TARGETS", (Target("a", 1.0, "a", lambda folder, draw: "x", refuses),))
    specimens: Any = SimpleNamespace(folder=tmp_path / "specimens")
    case = resealed.one(0, specimens, tmp_path / "work", NOTED)
    assert case.refused and not case.loss


def test_what_is_sealed_again_is_read(tmp_path):
    """Else all cases would be refused for their checksum alone."""
    draw, path = random.Random(0), tmp_path / "a.json"
    write_json_atomic(path, {"a": [1, 2, {"b": "c"}], "d": 1.5}, checksum=True)
    assert mutations.sealed(mutations.dumped({"a": [1, 2, {"b": "c"}], "d": 1.5})) == path.read_bytes()
    for _ in range(100):
        value = mutations.mutated({"a": [1, 2, {"b": "c"}], "d": 1.5}, draw)
        if isinstance(value, dict) and value:
            path.write_bytes(mutations.sealed(mutations.dumped(value)))
            try:
                read_json(path)
            except DigitError as error:
                assert "checksum" not in str(error)


def test_equal_numbers_make_equal_cases():
    value = {"a": list(range(30)), "b": {"c": "d" * 9}}
    once, again = ([mutations.mutated(value, random.Random(i)) for i in range(20)] for _ in range(2))
    assert list(map(repr, once)) == list(map(repr, again)) and len(set(map(repr, once))) > 10

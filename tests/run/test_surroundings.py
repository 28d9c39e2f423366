"""Standard streams that are closed, full or ASCII, and odd variables of the environment."""

import os
import subprocess
import sys

import pytest

from digit.errors import DigitError
from digit.run.device import choose_device
from digit.run.surroundings import NAMES, check_environment

DIGIT = f"{sys.executable} -m digit"


def shell(line, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in NAMES} | {
        "OMP_NUM_THREADS": "1"
    }
    how = {"env": clean | environment, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], **how)


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true", "2>/dev/full"])
def test_work_does_not_hang_on_who_reads(chain, tmp_path, streams):
    done = shell(f"{DIGIT} sample {chain.root / 'model'} --num 1 --out {tmp_path / 'o'} {streams}")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        *(".digit.json", "000000.png", "grid.png", "samples.json"),
    }
    assert "Traceback" not in done.stderr


def test_a_full_disk_behind_standard_output_is_said():
    for line in ("--help", "info", "evaluate compare a b --json"):
        done = shell(f"cd /; {DIGIT} {line} >/dev/full")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


def test_names_go_through_ascii_streams(tmp_path):
    folder = tmp_path / "Bücher-本"
    folder.mkdir()
    done = shell(f"{DIGIT} info {folder}; {DIGIT} info --json >/dev/null", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "B\\xfccher-\\u672c" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("columns", ["0", "1", "-7", "x"])
def test_a_screen_of_any_width(columns):
    done = shell(f"{DIGIT} sample --help", COLUMNS=columns)
    assert done.returncode == 0 and "--guidance" in done.stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in NAMES for value in ("x", "-1", "1.5", "nan", "1e3", "9" * 20)),
        *((name, "0") for name in NAMES if "RANK" not in name),
        ("OMP_NUM_THREADS", "abc,1"),
        ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "soon"),
    ],
)
def test_variables_that_are_no_numbers_are_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(DigitError, match=f"^{name} is '{value}' in the environment: unset it"):
        check_environment()


def test_they_are_named_by_the_command():
    for verb in ("--help", "sample", "train prior --codes x --out y"):
        done = shell(f"{DIGIT} {verb}", WORLD_SIZE="x")
        assert done.returncode == 2 and done.stderr.startswith("digit: WORLD_SIZE is 'x'"), done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_others_variables_end_in_a_sentence_or_change_nothing(tmp_path):
    done = shell(f"{DIGIT} evaluate selftest", TORCH_LOGS="nonsense")
    assert done.returncode == 2 and done.stderr.startswith("digit: torch cannot be loaded"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = shell(
        f"{DIGIT} evaluate projection --out {tmp_path}/r.json", MPLBACKEND="nonsense", TMPDIR="/missing"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["my runs/model", "runs/model--2", "-a/b", "a/b..c"])
def test_what_is_no_name_on_the_hub_is_a_sentence(run, name):
    for verb in ("sample", "info"):
        code, _, err = run(verb, name)
        assert code == 2 and len(err.splitlines()) == 1, err


def test_what_is_set_and_empty_is_not_set(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, " ")
    check_environment()
    assert not {*NAMES} & {*os.environ}
    monkeypatch.setenv("RANK", "3")  # of a process that is alone, which would not speak
    check_environment()
    assert "RANK" not in os.environ
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DigitError, match="RANK is 3 in the environment and WORLD_SIZE 2"):
        check_environment()


def test_a_gpu_that_is_not_there_is_said(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert choose_device(None).type == "cpu"
    assert "CUDA_VISIBLE_DEVICES=7 names no GPU of this machine" in capsys.readouterr().err

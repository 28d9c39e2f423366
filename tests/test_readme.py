"""The README's commands are real: every one parses, and those on the bundled model run."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from tests_support import note_calls

from digit.run import main as command_line

README = Path(__file__).parents[1] / "README.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README.read_text(), flags=re.DOTALL)


COMMANDS = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()
            if line.startswith("digit ")]  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line, monkeypatch):
    verbs, called = note_calls(command_line.VERBS)
    monkeypatch.setattr(command_line, "VERBS", verbs)
    monkeypatch.setattr(command_line, "run_together", lambda arguments, _: command_line.run(arguments))
    assert command_line.run(shlex.split(line)[1:]) == 0
    assert len(called) == 1


def test_there_are_commands_to_test():
    assert len(COMMANDS) >= 10
    assert len(blocks("python")) == 1


def test_the_python_lines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), names)
    assert (tmp_path / "cat.png").exists()
    assert names["codes"].shape == (2, 64)


def test_links_and_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target


def test_make_targets_exist():
    text = (README.parent / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"\n{target}:" in text
    assert "digit sample --num 64 --out demo" in text


@pytest.mark.parametrize("there", ["python3.11", "python3.12", "python3.13", "python3.14", "python3"])
def test_make_takes_the_python_that_is_there(there, tmp_path):
    """The others are too old, or a name behind which nothing runs, as pyenv has them."""
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {int(name != there)}\n")
        (tmp_path / name).chmod(0o755)
    done = make(tmp_path)
    assert f"{there} -m venv {tmp_path}/venv" in done.stdout, done


def test_make_without_a_python_says_so(tmp_path):
    done = make(tmp_path, "-s")
    assert done.returncode == 2 and not (tmp_path / "venv").exists()
    sentence = done.stderr.splitlines()[0]
    assert sentence.startswith("no Python from 3.11 on is here") and "python3.14" in sentence


def make(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`make demo` where programs are those of `path`; it says what it would do, unless options are given."""
    for tool in ("sh", "test", "echo", "make"):
        (path / tool).exists() or (path / tool).symlink_to(shutil.which(tool) or "/bin/sh")
    command = [path / "make", *(options or ["-n"]), "demo", f"VENV={path}/venv", "SHELL=/bin/sh"]
    environment = {"PATH": str(path)}
    return subprocess.run(command, cwd=README.parent, env=environment, capture_output=True, text=True)

"""The README's commands are real: every one parses, and those on the bundled model run."""

import re
import shlex
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

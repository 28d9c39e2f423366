"""`make demo` and `make test`, the first lines of the README. Its other lines: tests/test_pages.py."""

import shutil
import subprocess
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


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

"""Every script in bench/ runs in its small form, so that none rots between measurements."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "bench").glob("*.py"))


def test_there_are_scripts():
    assert {"kmeans", "memory"} <= {script.stem for script in SCRIPTS}


def interprets() -> bool:
    """Whether Triton's interpreter works without what conftest.py does for this process: from 3.7 on."""
    if importlib.util.find_spec("triton") is None:
        return False
    return tuple(map(int, importlib.metadata.version("triton").split(".")[:2])) >= (3, 7)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_smoke(script, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "bench").rglob("*") if path.suffix != ".pyc"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["TORCH_COMPILE_DISABLE"] = "1"  # what is compiled has tests of its own
    if not interprets():
        del environment["TRITON_INTERPRET"]
    done = subprocess.run(
        [sys.executable, script, "--smoke"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    after = {path: path.stat().st_mtime_ns for path in (ROOT / "bench").rglob("*") if path.suffix != ".pyc"}
    assert after == before, "a smoke run must not replace measured results"

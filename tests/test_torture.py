"""The fault and fuzz tests of torture/ in their short form, each in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from digit.files import read_json
from torture.page import table

ROOT = Path(__file__).parents[1]
NAMES = tuple(f"T{number}" for number in (*range(1, 14), 15, 18, 19, *range(22, 28)))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The rows of all tests, run by two processes at once."""
    folder = tmp_path_factory.mktemp("torture")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = []
    for part in range(2):
        path = folder / f"{part}.json"
        command = [
            sys.executable,
            "-m",
            "torture",
            "--short",
            "--results",
            str(path),
            "--only",
            *NAMES[part::2],
        ]
        options = {"cwd": ROOT, "env": environment, "text": True, "stderr": subprocess.STDOUT}
        started.append((path, subprocess.Popen(command, stdout=subprocess.PIPE, **options)))
    found = {}
    for path, process in started:
        said, _ = process.communicate(timeout=450)
        assert path.exists(), said
        rows = read_json(path)["tests"]
        assert process.returncode == any(row["losses"] for row in rows.values()), said
        found |= rows
    return found


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost(results, name):
    assert results[name]["cases"] > 0
    assert not results[name]["losses"]


def test_none_is_left_out(results):
    assert set(results) == set(NAMES)


def test_the_page_has_the_figures_that_are_kept():
    kept = read_json(ROOT / "bench" / "results" / "reliability.json")["tests"]
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert set(kept) == set(NAMES) and table(kept) in page
    assert "torture --results bench/results/reliability.json --out docs/reliability.md" in (
        ROOT / "Makefile"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_a_file_whose_first_line_names_it(name):
    files = [file for file in (ROOT / "torture").glob("*.py") if file.read_text().startswith(f'"""{name}: ')]
    assert len(files) == 1

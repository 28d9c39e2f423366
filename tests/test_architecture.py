"""docs/architecture.md is true: its examples run, its links lead somewhere, its layers are the real ones."""

import json
import re
from pathlib import Path

import pytest
from test_imports import ALLOWED, FLOW, LEAVES

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"## To add an? (\w+)\n.*?```python\n(.*?)```", TEXT, re.DOTALL)
WORDS = {"leaves": LEAVES, "the method": set(FLOW)}


@pytest.mark.parametrize(("part", "code"), EXAMPLES, ids=[part for part, _ in EXAMPLES])
def test_an_example_runs(part, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"architecture.md: {part}", "exec"), {})


def test_there_is_an_example_of_each():
    assert [part for part, _ in EXAMPLES] == ["encoder", "renderer", "measurement"]


def test_links_lead_to_files():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", TEXT) if not target.startswith("http")]
    assert len(targets) > 20
    missing = [target for target in targets if not (PAGE.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("name", [name for name in ALLOWED if name not in LEAVES])
def test_a_layer_may_import_what_the_table_says(name):
    row = re.search(rf"^\| `{name}/?` \| [^|]+ \| ([^|]+) \|$", TEXT, re.MULTILINE)
    assert row, f"{name} is not in the table"
    said = set().union(*(WORDS.get(word, {word}) for word in row[1].split(", ")))
    assert said == ALLOWED[name]


def test_counts_are_those_of_the_commits_that_they_name():
    kept = json.loads((PAGE.parents[1] / "bench" / "results" / "structure.json").read_text())["checkouts"]
    for row, key in (
        ("", "commit"),
        ("files", "files"),
        ("lines", "lines"),
        ("options of all verbs", "options"),
    ):
        cells = [f"{found[key]:,}" if key != "commit" else found[key] for found in kept]
        assert f"| {row} | {cells[0]} | {cells[1]} |".replace("|  |", "| |") in TEXT

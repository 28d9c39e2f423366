"""docs/architecture.md is true: its layers are the real ones, its counts those of their commits."""

import json
import re
from pathlib import Path

import pytest
from test_imports import ALLOWED, FLOW, LEAVES

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")
WORDS = {"leaves": LEAVES, "the method": set(FLOW)}


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

"""One word for one thing: each word is explained once, and what was said before it is not said again."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
ROW = re.compile(r"^\| (?P<first>[^|]+) \| (?P<second>[^|]+) \|(?: (?P<third>[^|]+) \|)?$", re.MULTILINE)


def rows() -> list[tuple[str, str, str | None]]:
    text = GLOSSARY.read_text(encoding="utf-8")
    return [(row["first"], row["second"], row["third"]) for row in ROW.finditer(text)]


def words() -> list[list[str]]:
    """The explained words of each table, in its order."""
    tables = GLOSSARY.read_text(encoding="utf-8").split("\n## ")[1:-1]
    return [re.findall(r"^\| \*\*(.+?)\*\* \| .+ \|$", table, re.MULTILINE) for table in tables]


def said_before() -> list[str]:
    """The phrases that the last table says are looked for."""
    return [first.strip("`") for first, _, third in rows() if third == "yes"]


def texts() -> list[Path]:
    pages = [page for page in (ROOT / "docs").glob("*.md") if page != GLOSSARY]
    return [ROOT / "README.md", *pages, *(ROOT / "digit").rglob("*.py")]


def occurrences(phrase: str) -> list[str]:
    """Where a phrase stands as whole words, whatever its capitals and line breaks: file:line."""
    wanted = re.compile(r"(?<![\w-])" + re.escape(phrase).replace(r"\ ", r"\s+(?:# )?") + r"(?!\w)", re.I)
    found = []
    for path in texts():
        text = path.read_text(encoding="utf-8")
        for match in wanted.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line}")
    return found


def test_each_word_is_explained_once_and_in_order():
    tables = words()
    assert all(len(table) >= 8 for table in tables)
    for table in tables:
        assert table == sorted(table, key=str.lower)
    every = [word for table in tables for word in table]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("phrase", said_before())
def test_what_was_said_before_is_not_said_again(phrase):
    assert not occurrences(phrase)


def test_a_phrase_is_found_over_the_end_of_a_line(tmp_path, monkeypatch):
    file = tmp_path / "x.py"
    file.write_text('"""So many images\n    a Second."""\n# of images\n# a second\n')
    monkeypatch.setitem(globals(), "texts", lambda: [file])
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert occurrences("images a second") == ["x.py:1", "x.py:3"]
    assert occurrences("image a second") == []


ENTRY = re.compile(r"^### ([^\n]+)\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)


def test_a_decision_has_a_heading_and_at_most_six_lines():
    entries = ENTRY.findall((ROOT / "docs" / "decisions.md").read_text(encoding="utf-8"))
    assert len(entries) > 30
    for heading, text in entries:
        assert len(text.strip().splitlines()) <= 6, heading

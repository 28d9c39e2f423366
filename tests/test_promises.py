"""What the pages promise is tested: each of their words that promise has a test by name, in promises.toml."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORD: dict[str, dict[str, str]] = tomllib.loads((ROOT / "tests/promises.toml").read_text(encoding="utf-8"))
WHOLE = (  # no word that promises is left out
    "README.md",
    "docs/reliability.md",
    "docs/inputs.md",
    "docs/threats.md",
    "SECURITY.md",
    "docs/checkpoints.md",
    "docs/architecture.md",
    "docs/own-parts.md",
    "docs/measurements.md",
)
PROMISING = re.compile(
    r"\b(always|cannot|equals?|every\w*|exact(ly)?|goe?s? on|however|identical|kept|never|no|nobody|none|"
    r"nothing|refuse[sd]?|resum\w+|same|skip\w*|whatever|whole)\b",
    re.IGNORECASE,
)
# Code, and what scripts write out of figures.
WRITTEN = re.compile(r"```.*?```|<!-- (?:table|figures|results).*?<!-- end -->", re.DOTALL)


def text_of(page: str) -> str:
    """A page's sentences, on one line."""
    return " ".join(WRITTEN.sub("", (ROOT / page).read_text(encoding="utf-8")).split())


def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", RECORD)
def test_promises_are_on_their_page_and_their_tests_exist(page):
    text = text_of(page)
    for words, tests in RECORD[page].items():
        assert words in text, f"{page} does not say this any more: {words}"
        for test in () if tests.startswith("- ") else tests.split():
            file, _, name = test.partition("::")
            assert name.startswith("test_") and name in functions_of(file), f"{words}: there is no {test}"


@pytest.mark.parametrize("page", WHOLE)
def test_no_promise_is_without_a_test(page):
    text = text_of(page)
    for words in sorted(RECORD[page], key=len, reverse=True):
        text = text.replace(words, "")
    left = [text[max(0, found.start() - 60) : found.end() + 60] for found in PROMISING.finditer(text)]
    assert not left, "\n".join([f"{page}: words that promise, and no test in tests/promises.toml:", *left])


def test_a_new_promise_is_seen():
    assert PROMISING.search("Every file is checked") and not PROMISING.search("It draws pictures")

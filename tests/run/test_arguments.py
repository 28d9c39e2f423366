"""A verb's signature, docstring and field comments become options; what is typed becomes its call."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from digit.errors import DigitError, on_command_line
from digit.run.arguments import call_of, options_of, parser_of, typed


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5  # share
    rounds: int | None = 3  # how often; none: never


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()  # the inner ones
    name: str = "x"  # its name


def verb(
    out: Path,
    *,
    kind: Literal["a", "b"] = "a",
    sizes: tuple[int, ...] = (1, 2),
    quick: bool = True,
    loud: bool = False,
    settings: Outer = Outer(),
) -> None:
    """Do something.

    Args:
        out: where to.
        kind: which kind.
        sizes: some sizes.
        quick: be quick.
        loud: be loud.
        settings: of it.
    """


def call(*arguments: str, defaults=None):
    with on_command_line():
        parser = parser_of("verb", verb, defaults)
        return call_of(verb, typed(parser, arguments), defaults or {})


def test_only_what_is_typed_is_given():
    assert call("--out", "here") == {"out": Path("here")}
    assert call("--out", "here", "--sizes", "4", "5", "--no-quick", "--loud", "--kind=b") == {
        "out": Path("here"),
        "sizes": (4, 5),
        "quick": False,
        "loud": True,
        "kind": "b",
    }


def test_fields_of_dataclasses_are_options_and_none_switches_one_off():
    changed = call("--out", "x", "--rounds", "none", "--name", "y")["settings"]
    assert changed == Outer(Inner(0.5, None), "y")
    recipe = {"settings": Outer(Inner(0.1, 9))}
    assert call("--out", "x", "--name", "y", defaults=recipe)["settings"] == Outer(Inner(0.1, 9), "y")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--out"),
        (["--out", "x", "--rate", "many"], "'many' is not a number"),
        (["--out", "x", "--kind", "c"], "'c' is none of a, b"),
        (["--out", "x", "--rounds", "1.5"], "'1.5' is not a whole number"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(arguments, words):
    with pytest.raises(DigitError) as error:
        call(*arguments)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_help_has_texts_and_real_defaults():
    texts = {option.name: option.help for option in options_of(verb)}
    assert texts["--sizes"] == "some sizes. (default: 1 2)"
    assert texts["--rate"] == "share (default: 0.5)"
    page = parser_of("verb", verb).format_help()
    assert page.startswith("usage: digit verb --out PATH [options]") and "{None}" not in page
    assert "--no-quick" in page and "--loud" in page and "--no-loud" not in page

"""Every option of every verb gets what nobody means: one sentence that names it, before anything is read."""

import math
import re
from pathlib import Path
from typing import get_args, get_origin

import pytest

from digit.bounds import Bounds, bounds_of
from digit.calls import check_fields
from digit.errors import DigitError
from digit.run import main
from digit.run.arguments import options_of, parser_of
from digit.run.main import understand
from digit.run.verbs import VERBS
from digit.training.config import OptimizerConfig, TrainConfig
from digit.vqgan_config import VQGANConfig, VQGANLossConfig

OPTIONS = {verb: options_of(VERBS[verb].function()) for verb in VERBS}
NUMBERS = ("-1", "0", "nan", "inf", "-inf", str(2**64), str(-(2**64)), "1e400", "x")
NEGATIVE = {"--block", "--snrs"}  # count from the end, decibels
PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"


def kind_of(option):
    """Of one of its values."""
    if get_origin(option.kind) in (tuple, dict):
        return [kind for kind in get_args(option.kind) if kind is not ...][-1]
    return option.kind


def is_number(option):
    kind = get_args(kind_of(option))[:1] or (kind_of(option),)  # of a dict: Annotated[int, ...]
    return kind[0] in (int, float)


def words(option, value):
    """An option as it is typed, with `value` for each of its numbers."""
    name = [] if option.positional else [option.name]
    members = [kind for kind in get_args(option.kind) if kind is not ...]
    if get_origin(option.kind) is dict:
        return [*name, "depth", value]
    return [*name, *[value] * (len(members) if get_origin(option.kind) is tuple else 1)]


def line(verb, asked, value):
    """A command line with all that is required, and one option with a value."""
    found = verb.split()
    for option in OPTIONS[verb]:
        if option.path == asked.path:
            found += words(option, value)
        elif option.required:
            usual = str(option.bounds.low) if option.bounds else (get_args(option.kind) or ["x"])[0]
            found += words(option, usual if isinstance(usual, str) else "x")
    return found


CASES = [
    (verb, option, value)
    for verb, options in OPTIONS.items()
    for option in options
    if option.kind is not bool
    for value in (*(NUMBERS if is_number(option) else ()), "", " ")
]


def test_every_number_has_bounds():
    for verb, options in OPTIONS.items():
        for option in options:
            assert (option.bounds is not None) == is_number(option), f"{verb} {option.name}"


@pytest.mark.parametrize("verb", VERBS)
def test_what_nobody_means_is_refused_before_anything_is_read(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = parser_of(verb, VERBS[verb].function(), common={"--json": {}})
    monkeypatch.setattr(main, "parser_of", lambda *_, **__: parser)  # made once, as are the options
    monkeypatch.setattr(main, "options_of", lambda *_: OPTIONS[verb])
    for _, option, value in (case for case in CASES if case[0] == verb):
        given = line(verb, option, value)
        name, bounds = option.name, option.bounds
        try:
            command = understand(given)
        except DigitError as error:
            said = str(error)
            assert re.search(rf"{re.escape(name)}\b", said) and len(said.splitlines()) == 1, given
            assert f"`digit {verb} --help` explains" in said
            continue
        assert not isinstance(command, str)
        assert bounds is not None and value in ("-1", "0") and int(value) in bounds, given
        assert value == "0" or name in NEGATIVE
    assert not list(tmp_path.iterdir())


def test_the_page_says_how_many_cases_there_are():
    assert f"{len(CASES):,} values" in PAGE.read_text(), f"{len(CASES):,} values"


@pytest.mark.parametrize(
    ("bounds", "value", "words"),
    [
        (Bounds(1, 8), 0, "0 is out of bounds: give a whole number from 1 up to 8"),
        (Bounds(0, 1, above=True), 0.0, "0 is out of bounds: give a number above 0 and up to 1"),
        (Bounds(0, 1, below=True), 1.0, "1 is out of bounds: give a number from 0 below 1"),
        (Bounds(0, 10**9), math.nan, "nan is out of bounds: give a number from 0 up to 1,000,000,000"),
        (Bounds(1, 8), 2**64, "18446744073709551616 is out of bounds"),
    ],
)
def test_what_bounds_say(bounds, value, words):
    assert words in bounds.refusal(value)
    assert bounds.refusal(0.5 if bounds.high == 1 else 1) is None


def test_bounds_are_found_in_annotations():
    assert bounds_of(int) is None and bounds_of(tuple[float, ...]) is None
    assert bounds_of(Bounds(1, 2)) == Bounds(1, 2)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *(
            (TrainConfig, {"steps": 1, "batch": 1} | wrong)
            for wrong in ({"steps": 0}, {"clip": 0.0}, {"ema": 1.0})
        ),
        *((TrainConfig, {"steps": 1, "batch": 1} | wrong) for wrong in ({"micro_batch": 0}, {"seed": -1})),
        *((OptimizerConfig, wrong) for wrong in ({"lr": math.nan}, {"betas": (0.9, 1.0)}, {"warmup": -1})),
        *((VQGANConfig, wrong) for wrong in ({"codes": 0}, {"multipliers": (1, 0)}, {"image_size": 2**40})),
        *((VQGANLossConfig, wrong) for wrong in ({"l1": math.nan}, {"dead_after": 0})),
    ],
)
def test_python_callers_get_the_same_sentence(kind, wrong):
    with pytest.raises(
        DigitError,
        match=r"^[a-z0-9_]+: .* is out of bounds: give a",
    ):
        kind(**wrong)
    check_fields(VQGANConfig())

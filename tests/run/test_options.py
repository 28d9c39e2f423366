"""The options of all verbs together: how many, each with its text, one name for one thing, examples."""

import collections
import re
import shlex

import pytest

from digit.run.arguments import description, options_of, parser_of
from digit.run.main import Command, understand
from digit.run.verbs import VERBS

NUMBER = 372  # of all verbs; --help, --json, --config and --processes, which come on top, are in every one
# Names with more than one meaning, each as its verb's own words have it; nothing is to be added here.
TWO_MEANINGS = {
    "--codes": "a folder of codes, a number of VQ codes (train vqgan), write codes too (sample)",
    "--encoder": "a name of timm (fit), a file or an artifact (convert)",
    "--norm": "where blocks normalise (train), whether features are normalised (fit)",
    "--precision": "of training, of measuring",
    "--held-out": "codes, or pictures where a stage trains on pictures",
    "--renderer": "an artifact (train, compose), which one of a model (sample, evaluate)",
    "--stored-as": "the types that a file can have",
    "--recipe": "the recipes of a stage",
}
OPTIONS = {verb: options_of(VERBS[verb].function()) for verb in VERBS}


def test_the_number_of_options_is_frozen():
    """More options are more to read for everybody: let one go for each that comes."""
    assert sum(map(len, OPTIONS.values())) == NUMBER <= 400


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_text_a_word_and_its_default(verb):
    for option in OPTIONS[verb]:
        assert len(option.text) > 4, option.name
        assert option.metavar or option.kind is bool, option.name
        assert "_" not in option.name
    page = parser_of(verb, VERBS[verb].function()).format_help()
    assert "{None}" not in page and "None)" not in page and "default: ()" not in page


def kinds(option):
    """A type without the difference between one value and several."""
    return re.sub(
        r"^tuple\[(.*), \.\.\.\]$", r"\1", str(option.kind).replace("<class '", "").replace("'>", "")
    )


def test_a_name_has_one_meaning():
    found = collections.defaultdict(set)
    for options in OPTIONS.values():
        for option in options:
            if not option.positional:
                found[option.name].add(kinds(option))
    assert {name for name, types in found.items() if len(types) > 1} <= set(TWO_MEANINGS)
    for gone in ("--limit", "--learning-rates", "--num-images", "--models", "--boards", "--kernels"):
        assert gone not in found


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_in_help_parse(verb):
    lines = re.findall(r"digit (.*)", description(VERBS[verb].function()).partition("Example")[2])
    assert lines
    for line in lines:
        command = understand(shlex.split(line.split("#")[0]))
        assert isinstance(command, Command) and command.verb == verb

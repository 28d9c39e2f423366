"""JSON of anybody's: every value that digit may write comes back, and nothing that no computer can hold."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digit.entries import DEPTH, Named, Number, Text, entries, parsed
from digit.errors import DigitError

PLAIN = st.none() | st.booleans() | st.integers(1 - 2**63, 2**63 - 1) | st.text()
PLAIN |= st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9)


@given(VALUES)
def test_what_was_written_comes_back(value):
    assert parsed(json.dumps(value).encode()) == value
    assert parsed(json.dumps(value, indent=2).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "Infinity", "-Infinity", "[1, NaN]", '{"a": -Infinity}', "1e999", "-1e309", "1E+400"),
        *("1" + "0" * 400, "-1" + "0" * 19, str(2**63), str(-(2**63)), "9" * 10**6, "1" + "0" * 400 + ".5"),
        *("[" * 10**6, "[" * 985 + "]" * 985, '{"a":' * 10**5, '{"a":' * 70 + "1" + "}" * 70),
        *("[" * (DEPTH + 2) + "]" * (DEPTH + 2), "", "{", '{"a" 1}', "\xff", "\ufeff1", '{"a": 1,}', "'a'"),
    ],
)
def test_what_no_computer_holds_is_refused_at_once(text):
    begun = time.process_time()
    with pytest.raises(ValueError) as error:
        parsed(text.encode("latin1") if text == "\xff" else text.encode())
    assert len(str(error.value)) < 300 and time.process_time() - begun < 1


def test_deep_is_deep_and_hashes_are_no_numbers():
    deep = "[" * DEPTH + "]" * DEPTH
    assert json.dumps(parsed(deep.encode())) == deep
    digest = {"sha256": "1" * 64, "1e999": "NaN", "number": 10**18, "small": 1e-300}
    assert parsed(json.dumps(digest).encode()) == digest


TYPES: dict[str, Any] = {"name": Named, "count": Number, "many": list[Text] | None, "rest": dict[str, Any]}
WHOLE = {"name": "a", "count": 1, "many": ["b"], "rest": {"x": [1]}, "other": object}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "name does not fit"),
        ({"name": 5}, "name does not fit"),
        ({"name": "x" * 5000}, "name does not fit"),
        *(({"count": value}, "count does not fit") for value in (-1, 2**31, True, 1.0, "1", None, [])),
        *(({"many": value}, "many does not fit") for value in ("ab", [1], {}, ["x" * 10**7], 3)),
        *(({"rest": value}, "rest does not fit") for value in (None, [], "x" * 10**8)),
    ],
)
def test_an_entry_of_another_type_is_named(change, words):
    assert entries(WHOLE, TYPES, where="a.json") is WHOLE
    assert entries({**WHOLE, "many": None}, TYPES, where="a.json")
    with pytest.raises(DigitError, match=rf"^a\.json: {words}") as error:
        entries(WHOLE | change, TYPES, where="a.json", remedy="make it again")
    assert str(error.value).endswith(": make it again") and len(str(error.value)) < 300


@pytest.mark.parametrize("value", [None, [], [WHOLE], "x" * 10**7, 1])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(DigitError, match=r"^a\.json holds no object"):
        entries(value, TYPES, where="a.json")


def test_what_is_absent_is_named():
    for name in ("name", "count", "rest"):
        with pytest.raises(DigitError, match=rf"{name} is not there"):
            entries({key: value for key, value in WHOLE.items() if key != name}, TYPES, where="a.json")

import json
from dataclasses import dataclass, field

import pytest
import torch

from digit.errors import DigitError
from digit.weights.storage import changed, from_dict, lossless, pack, to_dict, unpack


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, -65504.0, 2.0**-24, 0.0], "float16"),  # its largest and its smallest number
        ([0.1], "float32"),
        ([65520.0], "float32"),
        ([2.0**-25], "float32"),
        ([1 + 2.0**-11], "float32"),
        ([], "float16"),
    ],
)
def test_lossless(values, expected):
    tensors = {"weight": torch.tensor(values), "counts": torch.tensor([70000, 2**40])}
    assert lossless(tensors) == expected
    if expected == "float16":
        assert torch.equal(unpack(pack(tensors, "float16", exact=set()))["weight"], tensors["weight"])


def test_one_tensor_decides_for_all():
    exact = torch.tensor([0.25])
    assert lossless({"a": exact, "b": exact / 3}) == lossless({"b": exact / 3, "a": exact}) == "float32"


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sides: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    width: int
    name: str | None = None
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    "settings", [Outer(3), Outer(3, "x"), Outer(4, inner=Inner(2.0, (5,))), Outer(1, inner=Inner(sides=()))]
)
def test_settings_survive_json_and_so_do_those_that_are_not_defaults(settings):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(settings))), where="x") == settings
    assert from_dict(Outer, changed(settings), where="x") == settings


def test_what_is_at_its_default_is_left_out():
    assert changed(Outer(3)) == {"width": 3}
    assert changed(Outer(3, inner=Inner(rate=1.0))) == {"width": 3, "inner": {"rate": 1.0}}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"width": "3"}, "here: width does not fit"),
        ({"width": 3.5}, "width does not fit"),
        ({}, "width does not fit"),
        (3, "the settings does not fit"),
        ({"width": 3, "nam": "x"}, "unknown setting nam: did you mean name"),
        ({"width": 3, "zzz": 1}, "unknown setting zzz: known are width, name, inner"),
        ({"width": 3, "inner": {"rates": 1.0}}, "unknown setting rates: did you mean rate"),
        ({"width": 3, "inner": {"sides": ["a"]}}, r"inner\.sides\.0 does not fit"),
    ],
)
def test_what_does_not_fit_is_named(value, problem):
    with pytest.raises(DigitError, match=problem):
        from_dict(Outer, value, where="here")

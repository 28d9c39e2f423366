"""digit.own_tokenizer: an id that changes with whatever decides codes, and checks of what an object gives."""

import functools

import pytest
import torch
from torch import nn

from digit.errors import DigitError
from digit.own_tokenizer import OwnTokenizer


class Held(nn.Module):
    """A tokenizer that holds what it is given."""

    codes, size = 4, 8

    def __init__(self, **held: object) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(pixels), 4, dtype=torch.int64)


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(pixels), 4, dtype=torch.int64)


def id_of(given: object) -> str:
    return OwnTokenizer(given, name="mine").id


def test_an_id_is_of_all_that_is_held():
    """Each pair differs in one thing; the same made twice has the same id."""

    def layer(value: float) -> nn.Linear:
        made = nn.Linear(2, 2)
        nn.init.constant_(made.weight, value)
        nn.init.zeros_(made.bias)
        return made

    makers = [
        functools.partial(Held, a=1), functools.partial(Held, a=2), functools.partial(Held, b=1),
        functools.partial(Held, a="1"), functools.partial(Held, a=[1, {"b": 2.0}]),
        functools.partial(Held, a=[1, {"b": 2.5}]), functools.partial(Held, a=torch.ones),
        lambda: Held(a=layer(1)), lambda: Held(a=layer(2)), lambda: Held(a=nn.ModuleList([layer(1)])),
        lambda: Held(a=torch.zeros(2)), lambda: Held(a=torch.zeros(2, 1)), lambda: Held(a=nn.Conv2d),
        lambda: Plain(1), lambda: Plain(Plain(1)), lambda: Plain(torch.zeros(1)), lambda: Plain({3, 1, 2}),
        lambda: Plain(nn.Dropout(0.1)), lambda: Plain(nn.Dropout(0.2)),
    ]  # fmt: skip
    ids = [id_of(make()) for make in makers]
    assert len(set(ids)) == len(ids)
    assert ids == [id_of(make()) for make in makers]


def test_its_own_id_is_taken():
    assert id_of(Held(id="mine, version 3")) == "mine, version 3"
    for wrong in (3, "", "x" * 201):
        with pytest.raises(DigitError, match="its id must be a text"):
            id_of(Held(id=wrong))


def test_what_cannot_be_read_asks_for_an_id():
    with pytest.raises(DigitError, match=r"holds a Generator \(value\), of which no id can be made"):
        id_of(Plain(torch.Generator()))
    spaces: dict = {"__name__": "nowhere"}
    exec("class T:\n    def encode(self, pixels): ...", spaces)
    with pytest.raises(DigitError, match="the source of T is in no file"):
        id_of(spaces["T"]())
    circle = Plain(None)
    circle.value = circle
    assert len(id_of(circle)) == 64


def test_vectors_are_a_row_for_each_code():
    own = OwnTokenizer(Held(vectors=lambda codes: torch.ones(*codes.shape, 3)), name="mine")
    assert own.table().shape == (4, 3)
    with pytest.raises(
        DigitError, match=r"vectors gave \(4, 3\) for codes \(1, 4\): give \(1, 4, channels\)"
    ):
        OwnTokenizer(Held(vectors=lambda codes: torch.ones(4, 3)), name="mine").table()
    own = OwnTokenizer(Held(nearest=lambda features: torch.full((len(features), 4), 9)), name="mine")
    with pytest.raises(DigitError, match="nearest gave codes from 9 to 9: give codes from 0 to 3"):
        own.nearest(torch.zeros(2, 4, 3))

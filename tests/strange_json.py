"""JSON with another value in one of its places."""

import copy
import random
from collections.abc import Iterator
from typing import Any

STRANGE: list[Any] = [None, True, -1, 0, 10**30, 2**62, 1e308, 0.5, "", "x" * 5000, "\x1b[2J", "\ud800"]
STRANGE += ["../../x", [], {}, [[]], [None], [1], ["a"], {"a": {}}, {"a": 1}, ...]


def places(value: Any, before: tuple = ()) -> Iterator[tuple]:
    """The way to each entry of nested dictionaries and lists; of long lists to the first ones."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value[:2]):
        yield (*before, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*before, key))


def changed(whole: Any, seed: str, count: int | None = None) -> Iterator[Any]:
    """The value with one entry replaced or gone, all or `count` by lot, and strange values in its place."""
    pairs = [(place, strange) for place in places(whole) for strange in STRANGE]
    random.Random(seed).shuffle(pairs)
    for place, strange in pairs[:count]:
        value = copy.deepcopy(whole)
        inner = value
        for key in place[:-1]:
            inner = inner[key]
        if strange is ...:
            del inner[place[-1]]
        else:
            inner[place[-1]] = strange
        yield value
    yield from (strange for strange in STRANGE if strange is not ...)

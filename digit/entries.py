"""What JSON of anybody's may say: numbers of 64 bits, in no deep nest, and entries of known types."""

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import Field, StringConstraints

from digit.bounds import MANY
from digit.errors import DigitError

DEPTH = 64  # of lists and objects in each other
_WHOLE = 2**63  # whole numbers are below, without their sign
# What may be too large a number; that of a checksum has a quotation mark behind it.
_LONG, _HIGH = re.compile(rb"\d{19}"), re.compile(rb"\d[eE]\+?\d{3,}(?:[\s,\]}]|$)")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

Number: Any = Annotated[int, Field(ge=0, le=MANY)]  # of steps, pictures, classes
Text: Any = Annotated[str, StringConstraints(max_length=4096)]  # a name, a path, a sentence
Named: Any = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


def parsed(data: bytes) -> Any:
    """The value of JSON in UTF-8.

    Raises:
        ValueError: it is none; a number in it is infinite, NaN or not below 2^63; or it is nested deeply.
    """
    # To look at each number takes five times as long.
    suspect = _LONG.search(data) or _HIGH.search(data)
    closer: dict[str, Any] = {"parse_int": _whole, "parse_float": _finite} if suspect else {}
    try:
        value = json.loads(data.decode(), parse_constant=_refuse, **closer)
    except RecursionError:
        raise ValueError("lists or objects lie deep in each other") from None
    # Innermost pairs of brackets go, a level at a time; those in texts may stay, and need the longer look.
    brackets = data.translate(None, _NO_BRACKETS)
    for _ in range(DEPTH):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    level = [value] if brackets else []
    for _ in range(DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise ValueError(f"more than {DEPTH} lists or objects lie in each other")


def entries(value: Any, types: Mapping[str, Any], *, where: object, remedy: str = "copy it again") -> dict:
    """The value, which is to be an object whose entries of these names have these types, strictly.

    One whose type allows None may be absent; others than these may be there. DigitError, naming `where` and
    the entry, else.
    """
    if not isinstance(value, dict):
        raise DigitError(f"{where} holds no object of names and values: {remedy}")
    for name, kind in types.items():
        try:
            _checker(kind).validate_python(value.get(name), strict=True)
        except pydantic.ValidationError as error:
            what = "is not there" if name not in value else f"does not fit ({_said(error)})"
            raise DigitError(f"{where}: {name} {what}: {remedy}") from None
    return value


@functools.cache
def _checker(kind: Any) -> Any:
    return pydantic.TypeAdapter(kind)


def _said(error: pydantic.ValidationError) -> str:
    return error.errors(include_input=False, include_url=False)[0]["msg"]


def _whole(text: str) -> int:
    """At once: Python takes longer the more digits there are, and refuses thousands of them."""
    if len(text) > 20 or not -_WHOLE < (number := int(text)) < _WHOLE:
        raise ValueError(f"{text[:20]}... is too large for a whole number")
    return number


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is too large for a number")
    return number


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")

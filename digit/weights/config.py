"""Settings read back from JSON as strictly as they were written: every key known, every value of its type."""

import dataclasses
import difflib
import json
import typing
from typing import Any, TypeVar

import pydantic

from digit.errors import DigitError

Settings = TypeVar("Settings")


def to_dict(config: Any) -> dict[str, Any]:
    """A settings dataclass as JSON has it: tuples become lists, paths strings."""
    return json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False, default=str))


def changed(config: Any) -> dict[str, Any]:
    """The settings that are not at their defaults, in settings inside settings too, as JSON has them."""
    values, kept = to_dict(config), {}
    for field in dataclasses.fields(config):
        inner, default = getattr(config, field.name), field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING or inner != default:
            kept[field.name] = changed(inner) if dataclasses.is_dataclass(inner) else values[field.name]
    return kept


def from_dict(kind: type[Settings], value: Any, *, where: str) -> Settings:
    """The dataclass `kind` from what JSON gave; DigitError, naming `where`, where it does not fit."""
    _refuse_unknown(kind, value, where)
    try:
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the settings"
        raise DigitError(f"{where}: {place} does not fit ({first['msg']})") from None


def _refuse_unknown(kind: type, value: Any, where: str) -> None:
    """Also in settings inside settings; pydantic drops the keys that a plain dataclass lacks."""
    if not isinstance(value, dict):
        return
    types = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for key, item in value.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise DigitError(f"{where}: unknown setting {key}: {hint}")
        if dataclasses.is_dataclass(types[key]) and isinstance(types[key], type):
            _refuse_unknown(types[key], item, where)

"""What a caller in Python gives -> what annotations say, or one sentence that names the argument.

The command line reads the same annotations. Torch and NumPy are not imported: their values say what they are.
"""

import dataclasses
import functools
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from digit.bounds import Bounds
from digit.errors import DigitError

P = ParamSpec("P")
R = TypeVar("R")

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_MEANT = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}


class _Unlike(Exception):
    """What is wrong with a value, without its name."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose arguments are checked by their annotations before it begins.

    Where that loses nothing they become what is annotated: a Path of a str, a tuple of a list, an array or a
    tensor, a number of NumPy's, a tensor of an array. DigitError names the first argument that cannot.
    """
    signature = inspect.signature(function)
    kinds = {name: each.kind for name, each in signature.parameters.items()}

    @functools.cache
    def hints() -> dict[str, Any]:
        found = get_type_hints(function, include_extras=True)
        return {name: hint for name, hint in found.items() if kinds.get(name) not in VARIABLE}

    @functools.wraps(function)
    def call(*positional: P.args, **named: P.kwargs) -> R:
        try:
            given = signature.bind(*positional, **named)
        except TypeError:
            return function(*positional, **named)  # Python's own sentence, with the function's name
        for name, value in given.arguments.items():
            if name in hints():
                given.arguments[name] = taken(name, value, hints()[name])
        return function(*given.args, **given.kwargs)

    return call


def check_fields(settings: Any) -> None:
    """The same for a dataclass's fields, from its `__post_init__`."""
    hints = get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        object.__setattr__(settings, field.name, taken(field.name, value, hints[field.name]))


def taken(name: str, value: Any, annotation: Any) -> Any:
    """The value as its annotation means it; DigitError where it cannot be that."""
    try:
        return _as(value, annotation)
    except _Unlike as error:
        raise DigitError(f"{name}: {error}") from None


def _as(value: Any, annotation: Any) -> Any:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        value = _as(value, parts[0])
        bounds = next((note for note in annotation.__metadata__ if isinstance(note, Bounds)), None)
        if bounds is not None and value is not None and (refusal := bounds.refusal(value)):
            raise _Unlike(refusal)
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, parts)
    if hasattr(annotation, "array_type"):
        return _tensor(value, annotation)
    if origin in (tuple, list, Sequence):
        return _several(value, origin, parts)
    if origin is Iterable and (isinstance(value, str | bytes) or not hasattr(value, "__iter__")):
        raise _unlike(value, "a list or a stream")
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _unlike(value, "a dict")
        return {_as(key, parts[0]): _as(each, parts[1]) for key, each in value.items()}
    if getattr(value, "ndim", None) == 0:  # a number of NumPy's or torch's
        value = value.item()
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in parts):
            raise _unlike(value, f"one of {', '.join(map(str, parts))}")
        return value
    if annotation in (str, Path):
        return _text(value, annotation)
    if annotation in (int, float, bool):
        if isinstance(value, bool) != (annotation is bool) or not isinstance(value, (annotation, int)):
            raise _unlike(value, _MEANT[annotation])
        return annotation(value)
    if annotation is Callable or origin is Callable:
        if not callable(value):
            raise _unlike(value, "a function")
    elif _is_class(annotation) and (isinstance(value, str) or not isinstance(value, annotation)):
        raise _unlike(value, f"{_article(annotation.__name__)} {annotation.__name__}")
    return value


def _one_of(value: Any, kinds: Sequence[Any]) -> Any:
    """By the first kind that takes the value as it is, or else the first that takes it at all."""
    if value is None and type(None) in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not type(None)]
    if any(inspect.isclass(kind) and type(value) is kind for kind in kinds):
        kinds = [kind for kind in kinds if kind is type(value)]
    arrays = [kind for kind in kinds if hasattr(kind, "array_type")]
    if arrays and hasattr(value, "dtype"):
        kinds = arrays
    of_members = None  # what is wrong in a list, where one is meant
    for kind in kinds:
        try:
            return _as(value, kind)
        except _Unlike as error:
            listed = get_origin(kind) in (tuple, list, Sequence) and _members(value) is not None
            if listed or len(kinds) == 1:
                of_members = error
    if of_members is not None:
        raise of_members
    raise _unlike(value, " or ".join(dict.fromkeys(_meant(kind) for kind in kinds)))


def _several(value: Any, origin: Any, parts: Sequence[Any]) -> Any:
    """Each of a list, tuple, range, array or tensor; a lone path is one of several."""
    kind = parts[0]
    lone = Path in (_plain(kind), *get_args(_plain(kind)))
    if lone and isinstance(value, str | os.PathLike):
        value = [value]
    members = _members(value)
    if members is None:
        raise _unlike(value, f"a list, each {_meant(kind)}")
    if origin is tuple and parts[-1] is not ... and len(members) != len(parts):
        raise _Unlike(f"give {len(parts)} values, these are {len(members)}")
    found = [_as(each, kind) for each in members]
    return tuple(found) if origin is tuple else found


def _members(value: Any) -> Sequence[Any] | None:
    """What a sequence or a row of an array holds; None where it is neither."""
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray) else None


def _text(value: Any, kind: type) -> Any:
    if type(value).__module__ == "torch" and type(value).__name__ == "device":
        value = str(value)
    if not isinstance(value, str | os.PathLike) or isinstance(value := os.fspath(value), bytes):
        raise _unlike(value, _MEANT[kind])
    if not value.strip():
        raise _Unlike("the value is empty: give one, or leave the argument out")
    return kind(Path(value).expanduser() if value.startswith("~/") else value)


def _tensor(value: Any, annotation: Any) -> Any:
    """A tensor of the annotated kind and shape; whole numbers of any width count as whole numbers."""
    import torch

    if hasattr(value, "flags"):  # torch takes no array that is read only or runs backwards, nor another order
        value = value.astype(value.dtype.newbyteorder("="))
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise _unlike(value, f"a tensor ({annotation.dim_str.strip()})") from None
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype is torch.bool)
    if annotation.__name__.startswith("Int[") and (whole or not found.numel()):
        found = found.long()
    elif annotation.__name__.startswith("Float[") and whole:
        found = found.float()
    if not isinstance(found, annotation):
        kind = "whole numbers" if annotation.__name__.startswith("Int[") else "numbers"
        shape, dtype = " ".join(map(str, found.shape)), str(found.dtype).removeprefix("torch.")
        raise _Unlike(f"give {kind} as ({annotation.dim_str.strip()}), not {dtype} as ({shape})")
    return found


def _is_class(annotation: Any) -> bool:
    """Whether values can be told to be of it: Any and protocols for type checkers alone are not."""
    told = not hasattr(annotation, "_is_protocol") or getattr(annotation, "_is_runtime_protocol", False)
    return annotation is not Any and inspect.isclass(annotation) and told


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _meant(annotation: Any) -> str:
    """A kind in words."""
    kind = _plain(annotation)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_meant, get_args(kind)))
    if hasattr(kind, "array_type"):
        return "a tensor"
    if get_origin(kind) in (tuple, list, Sequence):
        return "a list"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    name = getattr(kind, "__name__", "value")
    return _MEANT.get(kind) or f"{_article(name)} {name}"


def _article(name: str) -> str:
    return "an" if name[0] in "AEIOaeio" else "a"


def _unlike(value: Any, meant: str) -> _Unlike:
    simple = value is None or isinstance(value, str | int | float)
    name = type(value).__name__
    shown = repr(value) if simple else f"{_article(name)} {name}"
    return _Unlike(f"give {meant}, not {shown if len(shown) < 60 else shown[:56] + '...'}")

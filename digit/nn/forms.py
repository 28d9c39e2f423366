"""The seam between the method and its speed: a plain function, and a form of it that may take its place.

A function marked `replaceable` is what a reader needs. Where `provider` names a module, its function of the
same name is asked first; it gives the same result sooner, or NotImplemented for what it cannot take.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

provider: str | None = None  # name of the module of forms, imported when first asked; digit/__init__ sets it

_plain_only = False


def replaceable(plain: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`plain`, unless the provider's function of this name takes the call; `.plain` stays as it was given."""

    @functools.wraps(plain)
    def either(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if provider is not None and not _plain_only:
            form = getattr(importlib.import_module(provider), plain.__name__)
            result = form(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return plain(*args, **kwargs)

    marked: Any = either
    marked.plain = plain
    return marked


@contextmanager
def plain() -> Iterator[None]:
    """Inside, only plain functions run: what tests and benches compare a form with."""
    global _plain_only
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before

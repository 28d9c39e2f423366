"""A batch cut into micro-batches, whatever it is made of."""

from typing import Any

from torch import Tensor

from digit.errors import DigitError


def rows(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor; DigitError if it holds none."""
    first = next(iter(_tensors(batch)), None)
    if first is None:
        raise DigitError(
            f"a batch of type {type(batch).__name__} holds no tensor: return tensors from data(step)"
        )
    return len(first)


def split(batch: Any, size: int | None) -> list[tuple[Any, float]]:
    """Micro-batches of at most `size` samples, each with its share of the whole (the shares add up to 1).

    Every tensor with a first dimension is cut along it: in tuples, named tuples, lists and dictionaries. What
    is not a tensor goes into each part as it is.
    """
    count = rows(batch)
    if size is None or size >= count:
        return [(batch, 1.0)]
    cuts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    return [(_take(batch, cut), (cut.stop - cut.start) / count) for cut in cuts]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.ndim else []
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in _tensors(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    return []


def _take(value: Any, cut: slice) -> Any:
    if isinstance(value, Tensor):
        return value[cut] if value.ndim else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_take(item, cut) for item in value])
    if isinstance(value, tuple | list):
        return type(value)(_take(item, cut) for item in value)
    if isinstance(value, dict):
        return {key: _take(item, cut) for key, item in value.items()}
    return value

"""Tensors as stored: float32, float16, or int8 with a scale per row; and settings, in strict JSON."""

import dataclasses
import difflib
import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import pydantic
import torch
from torch import Tensor

from digit.errors import DigitError

Settings = TypeVar("Settings")
StoredAs = Literal["float32", "float16", "int8"]
SCALE = ".scale"  # the tensor <name>.scale holds the scales of the rows of <name>


def pack(tensors: Mapping[str, Tensor], stored_as: StoredAs, *, exact: set[str]) -> dict[str, Tensor]:
    """The tensors to store; those named in `exact` stay float32, whole numbers stay as they are.

    int8 rounds each row (first dimension) of a matrix to 255 levels of its largest magnitude: an element is
    off by at most 1/254 of that. Vectors, and tensors of one row, stay float32. DigitError where float16
    would overflow.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if not tensor.is_floating_point():
            packed[name] = tensor
        elif stored_as == "float16" and name not in exact:
            packed[name] = tensor.half()
            if not torch.equal(packed[name].isfinite(), tensor.isfinite()):
                raise DigitError(
                    f"{name} holds values above 65504, which float16 cannot: store it as float32 or int8"
                )
        elif stored_as == "int8" and name not in exact and tensor.ndim >= 2 and len(tensor) > 1:
            packed[name], packed[name + SCALE] = _rounded(tensor.float())
        else:
            packed[name] = tensor.float()
    return packed


def lossless(tensors: Mapping[str, Tensor]) -> StoredAs:
    """float16 if every value comes back from it exactly, as of tensors once rounded to it; else float32.

    Give the tensors that are rounded when stored, a module's parameters: its buffers stay float32 anyway.
    """
    exact = all(
        torch.equal(tensor.detach().half().to(tensor.dtype), tensor.detach())
        for tensor in tensors.values()
        if tensor.is_floating_point()
    )
    return "float16" if exact else "float32"


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 tensors that were packed, rounded as the storage rounds."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE) and tensors.get(name.removesuffix(SCALE), tensor).dtype == torch.int8:
            continue
        if tensor.dtype == torch.int8 and name + SCALE in tensors:
            scale = tensors[name + SCALE]
            if scale.shape != tensor.shape[:1]:
                raise DigitError(
                    f"{name}{SCALE} has shape {list(scale.shape)}, not one scale per row of {name}"
                )
            whole[name] = tensor.float() * scale.view(-1, *[1] * (tensor.ndim - 1))
        else:
            whole[name] = tensor.float() if tensor.is_floating_point() else tensor
    return whole


def unpacked_shapes(stored: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that were packed, of the types and shapes that a file has."""
    scales = {name + SCALE for name, (kind, _) in stored.items() if kind == "I8"}
    return {name: shape for name, (_, shape) in stored.items() if name not in scales}


def fingerprint(header: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over `header` and the tensors' names, shapes and float32 values, sorted by name."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        tensor = (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        digest.update(f"\n{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _rounded(tensor: Tensor) -> tuple[Tensor, Tensor]:
    rows = tensor.flatten(1)
    scale = rows.abs().amax(1) / 127
    levels = (rows / torch.where(scale > 0, scale, 1.0)[:, None]).round()
    return levels.to(torch.int8).view_as(tensor), scale


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

"""Tensors of which each process holds a part: a safetensors file each, which says where its parts begin.

The files are laid out as those of `HuggingFaceStorageWriter` (torch.distributed.checkpoint), and torch's
reader reads them. They are not written by it: its processes tell each other by pickles what they write, and
without telling it refuses a part as incomplete.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from torch import Tensor, nn

from digit.entries import Number, entries, parsed
from digit.errors import DigitError
from digit.opening import name_of, open_regular
from digit.tensors import write_safetensors_atomic

PLACES, BEGINS = "DCP_SHARDING_INFO", "saved_offsets"  # torch's names in a file's metadata
_EARLIER = "take an earlier state"


class Piece(NamedTuple):
    """The part of a tensor that this process holds."""

    tensor: Tensor
    begins: tuple[int, ...]  # at these indices of the whole
    sharded: bool = True  # or all of it, as every process does


def as_sharded(tensor: Tensor) -> Any:
    """The tensor if it is a DTensor, else None; only sharded runs import that type, which takes a while."""
    return tensor if hasattr(tensor, "device_mesh") else None


def piece(tensor: Tensor) -> Piece:
    """What this process holds of a tensor: its shard, or all."""
    if (parted := as_sharded(tensor)) is None:
        return Piece(tensor, (0,) * tensor.ndim, sharded=False)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, begins = compute_local_shape_and_global_offset(parted.shape, parted.device_mesh, parted.placements)
    return Piece(parted.to_local(), tuple(begins))


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, in the same memory; another tensor as it is."""
    return tensor if (parted := as_sharded(tensor)) is None else parted.to_local()


def full(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, of which every process must ask; another tensor as it is."""
    return tensor if (parted := as_sharded(tensor)) is None else parted.full_tensor()


def like(parameter: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The stored tensor `name`, in parts as `parameter` is, if it has the same shape."""
    if as_sharded(parameter) is None or shape_of(tensors, name) != tuple(parameter.shape):
        return tensors[name]
    target = torch.zeros_like(parameter.detach())
    fill(target, tensors, name)
    return target


def shape_of(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The shape of a stored tensor, which is not read for it."""
    return tensors.shape(name) if isinstance(tensors, Tensors) else tuple(tensors[name].shape)


def write(path: Path, pieces: Mapping[str, Piece]) -> str:
    """Write what this process holds, and give the file's sha256; parts without elements are left out.

    Raises OSError when the disk refuses.
    """
    some = {name: part for name, part in pieces.items() if part.tensor.numel()}
    places = {name: {BEGINS: list(part.begins)} for name, part in some.items()}
    tensors = {name: part.tensor for name, part in some.items()}
    return write_safetensors_atomic(path, tensors, metadata={PLACES: json.dumps(places)})


class Tensors(Mapping[str, Tensor]):
    """The tensors of one file or of several shards, each read whole when it is asked for, or in part.

    DigitError where a file is damaged or a part is missing.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._parts: dict[str, list[tuple[Path, tuple[int, ...], tuple[int, ...]]]] = {}
        self._files = {}
        for path in paths:
            with _readable(path), open_regular(path) as opened:
                self._files[path] = file = safetensors.safe_open(name_of(opened), "pt")
                places = parsed((file.metadata() or {}).get(PLACES, "{}").encode())
                entries(places, {}, where=path, remedy=_EARLIER)
                for name in file.keys():  # noqa: SIM118  (it is no mapping)
                    shape = tuple(file.get_slice(name).get_shape())
                    begins = (0,) * len(shape)
                    if name in places:
                        place = entries(
                            places[name], {BEGINS: list[Number]}, where=f"{path}: {name}", remedy=_EARLIER
                        )
                        begins = tuple(place[BEGINS])
                    self._parts.setdefault(name, []).append((path, begins, shape))
        for name, parts in self._parts.items():
            if len({len(sides) for _, *both in parts for sides in both}) > 1:
                raise DigitError(f"{parts[0][0]} says of {name} what others do not: {_EARLIER}")
            # Before anything is set aside: a place may be any number, and makes the whole as large.
            if math.prod(self.shape(name)) > sum(math.prod(shape) for _, _, shape in parts):
                raise _lacking(parts[0][0], name)

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor."""
        return self.read(name, (0,) * len(self.shape(name)), self.shape(name))

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._parts)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        ends = [[b + s for b, s in zip(begins, shape, strict=True)] for _, begins, shape in self._parts[name]]
        return tuple(max(each) for each in zip(*ends, strict=True))

    def read(self, name: str, begins: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The part of a tensor that begins at these indices and has this shape; no more is read."""
        found, missing = None, torch.Size(shape).numel()
        for path, start, size in self._parts[name]:
            low = [max(a, b) for a, b in zip(begins, start, strict=True)]
            high = [min(a + n, b + m) for a, n, b, m in zip(begins, shape, start, size, strict=True)]
            if any(a >= b for a, b in zip(low, high, strict=True)):
                continue
            inside = tuple(slice(a - b, c - b) for a, b, c in zip(low, start, high, strict=True))
            with _readable(path):
                part = (
                    self._files[path].get_slice(name)[inside] if shape else self._files[path].get_tensor(name)
                )
            missing -= part.numel()
            if part.shape == torch.Size(shape):
                found = part
                break
            found = part.new_empty(*shape) if found is None else found
            found[tuple(slice(a - b, c - b) for a, b, c in zip(low, begins, high, strict=True))] = part
        if missing or found is None:
            raise _lacking(self._parts[name][0][0], name)
        return found


def _lacking(path: Path, name: str) -> DigitError:
    return DigitError(f"{path.parent} lacks a part of {name}: {_EARLIER}")


@torch.no_grad()
def fill(target: Tensor, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy the stored tensor `name` into `target`, of which this process may hold a part.

    Raises KeyError where there is no such tensor, ValueError where it has another shape.
    """
    here = piece(target)
    shape = shape_of(tensors, name)
    if shape != tuple(target.shape):
        raise ValueError(f"{name} has shape {shape}, not {tuple(target.shape)}")
    if isinstance(tensors, Tensors) and here.tensor.numel():
        here.tensor.copy_(tensors.read(name, here.begins, here.tensor.shape))
    elif here.tensor.numel():
        inside = tuple(slice(b, b + n) for b, n in zip(here.begins, here.tensor.shape, strict=True))
        here.tensor.copy_(tensors[name][inside] if inside else tensors[name])


def load_parts(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """What `load_state_dict` does, for a module of which this process holds a part.

    Raises KeyError or ValueError where the tensors are another module's.
    """
    here = module.state_dict()
    for name in here.keys() ^ tensors.keys():
        raise KeyError(f"{name} is in one of them only")
    for name, target in here.items():
        fill(target, tensors, name)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise DigitError(f"{path} is not a whole safetensors file ({error}): {_EARLIER}") from None

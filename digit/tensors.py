"""Tensors on disk: safetensors files, which are hashed while they are written."""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from digit.errors import DigitError
from digit.files import atomic_file
from digit.opening import name_of, open_regular
from digit.printing import listed, readable

# The format's names of types, in the order in which the library writes them.
_TYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
HEADER = 2**24  # bytes of a header, at most: more than a hundred thousand tensors
_ORDER = {kind: place for place, kind in enumerate(_TYPES)}


def write_safetensors_atomic(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write tensors from any device, whole or not at all; the sha256 of the bytes that were written.

    Tensors that share memory are stored once each. Byte for byte what the library safetensors writes, which
    opens files by name, by rights of its own, and several notes of metadata in an order by lot.
    """
    stored = on_cpu(tensors)
    names = sorted(stored, key=lambda name: (_ORDER[stored[name].dtype], name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        begin, end = end, end + stored[name].nbytes
        shape = list(stored[name].shape)
        header[name] = {"dtype": _TYPES[stored[name].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with atomic_file(path) as file:
        for part in (len(text).to_bytes(8, "little"), text, *(_bytes(stored[name]) for name in names)):
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on the CPU; DigitError when it is absent or damaged."""
    try:
        with open_regular(path) as file:
            return tensors_in(file, path)
    except FileNotFoundError:
        raise DigitError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise DigitError(f"{path} cannot be read ({error.strerror}): check what it is") from None


def shapes_in(file: BinaryIO, path: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type (F32, I8, ...) and shape of each tensor by its name, none of which is larger than its file.

    No tensor is read. Arguments and errors as of `tensors_in`.
    """
    with _header(file, path), safetensors.safe_open(name_of(file), "np") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        return {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}


@contextlib.contextmanager
def _header(file: BinaryIO, path: str | Path) -> Iterator[None]:
    """DigitError where a file's header is larger than any number of tensors needs, or is none."""
    file.seek(0)
    announced = int.from_bytes(file.read(8), "little")
    if announced > HEADER:
        raise DigitError(
            f"{path} is not a whole safetensors file (a header of {announced:,} bytes, {HEADER:,} are "
            "the most): make or copy it again"
        )
    try:
        yield
    except (safetensors.SafetensorError, OSError, ValueError, LookupError, RuntimeError) as error:
        raise DigitError(
            f"{path} is not a whole safetensors file ({readable(error, 300)}): make or copy it again"
        ) from None


def tensors_in(file: BinaryIO, path: str | Path) -> dict[str, Tensor]:
    """The same of a file that is open; `path` is what it is called. They stay when it is closed."""
    with _header(file, path):
        return safetensors.torch.load_file(name_of(file))


def check_finite(tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """DigitError that names the file `where` and the tensors that hold NaN or infinity."""
    # A sum is one pass without memory of its own; only one that is not finite needs a closer look.
    suspects = [name for name, value in tensors.items() if not math.isfinite(value.sum())]
    if bad := [name for name in suspects if not tensors[name].isfinite().all()]:
        raise DigitError(
            f"{where} holds values that are not finite, in {listed(bad, 4)}: copy or make it again"
        )


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, no two sharing memory (safetensors refuses aliases)."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        if pointer in seen or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        result[name] = tensor
    return result


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data

"""Files that others wrote, read without running anything in them, and checked against what they should hold.

The one place of digit that opens pickles. torch's restricted reader builds tensors, plain containers and the
inert classes below; it never imports or calls what a file names.
"""

import contextlib
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from digit.arrays import READERS_RAISE
from digit.errors import DigitError
from digit.opening import name_of, open_regular
from digit.printing import listed, readable
from digit.tensors import tensors_in

SHARED = 4  # tensors that may share the same bytes: weights under several names
_LITTLE = 2**27  # bytes that tensors may take in any case
_MADE = ("builtins.bytearray", "__builtin__.bytearray")
_GROWING = (  # encodings of bytes as more bytes
    *("hex", "hex_codec", "base64", "base_64", "base64_codec", "uu", "uu_codec"),
    *("quopri", "quopri_codec", "quoted_printable"),
)
NAMES = 12  # tensors of a kind that a sentence names at most
T = TypeVar("T")
Layout = Mapping[str, tuple[int, ...]]  # the shape of every tensor, by the name it has in their file


class Inert:
    """Takes the place of an object that is no weight: keeps what its pickle says and does nothing."""

    arguments: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *arguments: Any) -> "Inert":
        """An object that remembers `arguments`, in place of calling anything with them."""
        self = super().__new__(cls)
        self.arguments = arguments
        return self

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Keep the state as it is: its names do not become attributes."""
        self.state = state


# What published checkpoints hold beside weights: options, callbacks, the best loss as a NumPy number.
_INERT: list[Any] = [
    (type(name.rpartition(".")[2], (Inert,), {}), name)
    for name in (
        "argparse.Namespace",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
    )
]


def read(path: Path) -> Any:
    """The content of a foreign file, on the CPU, recognised by its first bytes and not by its name.

    torch.save's files give what was saved, with `Inert` objects in place of options and callbacks; tensors of
    zip files are mapped from the disk, not copied. A .npy file gives a Tensor, a safetensors file a
    dictionary. Source of the restrictions: torch.load with weights_only, numpy.load without pickles.

    Raises:
        DigitError: no such file, none of these kinds, damaged, or it names something that would have to run.
    """
    path = Path(path)
    with _opened(path) as file, warnings.catch_warnings():
        # torch and NumPy warn about odd files that they then read, or that are refused below in one sentence.
        warnings.simplefilter("ignore")
        head = file.read(512)
        file.seek(0)
        if head.startswith(b"PK"):
            _check_zip(file, path)
            return _read_torch(file, path, mmap=True)
        if head[257:262] == b"ustar":
            raise DigitError(
                f"{path} is a tar archive: unpack it if it holds a weights file; if PyTorch before 0.2 wrote "
                "it, no safe reader exists: load it there and save it with a newer PyTorch"
            )
        if head.startswith(b"\x80"):
            return _read_torch(file, path, mmap=False)
        if head.startswith(b"\x93NUMPY"):
            return _read_numpy(file, path)
        if head[8:9] == b"{":
            return tensors_in(file, path)
    if not head:
        raise DigitError(f"{path} is empty: download or copy it again")
    if head.startswith(b"version https://git-lfs"):
        raise DigitError(f"{path} only points to a file that Git LFS keeps: run `git lfs pull` beside it")
    raise DigitError(
        f"{path} is no PyTorch, NumPy or safetensors file: give a .pt, .pth, .ckpt, .npy or .safetensors file"
    )


def check_layout(tensors: Mapping[str, Tensor], layout: Layout, *, where: str) -> None:
    """DigitError, naming the file `where`, that names missing, unknown and wrongly shaped tensors."""
    if found := misfits({name: tuple(value.shape) for name, value in tensors.items()}, layout):
        raise DigitError(f"{where} is not the file it seems to be, its tensors do not fit: {found}")


def misfits(shapes: Layout, layout: Layout) -> str:
    """The first names of missing, unknown and wrongly shaped tensors, and how many more there are of each."""
    problems = {
        "missing": [name for name in layout if name not in shapes],
        "unknown": [name for name in shapes if name not in layout],
        "of another shape": [
            f"{name} {list(shapes[name])} for {list(shape)}"
            for name, shape in layout.items()
            if name in shapes and tuple(shapes[name]) != tuple(shape)
        ],
    }
    return "; ".join(f"{what}: {listed(names, NAMES)}" for what, names in problems.items() if names)


def without_prefix(tensors: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The tensors, or their shapes, whose names start with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _opened(path: Path) -> BinaryIO:
    if path.is_dir():
        raise DigitError(f"{path} is a folder: give the file with the weights in it")
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise DigitError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise DigitError(f"{path} cannot be read ({error.strerror}): check its permissions") from None


def _check_zip(file: BinaryIO, path: Path) -> None:
    """Refuse zip files that torch.save did not write, before torch reads them."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except READERS_RAISE as error:
        raise _damaged(path, "PyTorch", error) from None
    names = [entry.filename.rpartition("/")[2] for entry in entries]
    if "constants.pkl" in names:
        raise DigitError(
            f"{path} is a TorchScript program, which would have to run: give saved weights instead"
        )
    if "data.pkl" not in names:
        raise DigitError(
            f"{path} is a zip archive that torch.save did not write: unpack it and give a file of it"
        )
    # torch.save never compresses, and a mapped tensor would be the compressed bytes.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise DigitError(
            f"{path} was compressed after torch.save wrote it: give the file as it was published"
        )


def _read_torch(file: BinaryIO, path: Path, *, mmap: bool) -> Any:
    _check_pickles(file, path, zipped=mmap)
    file.seek(0)
    source: Any = name_of(file) if mmap else file
    if mmap and source.endswith(".safetensors"):  # torch would believe it, on systems without names of files
        source, mmap = file, False
    with torch.serialization.safe_globals(_INERT):
        try:
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception as error:  # damaged bytes send an interpreter of pickles anywhere
            named = re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", str(error))
            if named is None or not isinstance(error, pickle.UnpicklingError):
                raise _damaged(path, "PyTorch", error) from None
        else:
            check_carried(content, os.fstat(file.fileno()).st_size, where=path)
            return content
    name = named[1] if "." in named[1] else f"builtins.{named[1]}"  # torch leaves that module out
    raise DigitError(
        f"{path} names {readable(name, 160)}, which is no weight; it was not run: use a file that holds only "
        "tensors, such as a state dict that its author saves alone"
    )


def check_carried(content: Any, size: int, *, where: object) -> None:
    """DigitError for tensors that are more than a file of `size` bytes carries, or no plain tables.

    A tensor may be a view that repeats a few bytes without end; copied, it would take what its shape says.
    """
    left, seen, total = [content], set[int](), 0
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            strange = value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_nested
            if strange or value.nbytes > value.untyped_storage().nbytes():
                shape = " x ".join(map(str, value.shape[:4]))
                raise DigitError(
                    f"{where} holds a tensor of {shape} that its bytes do not carry: get it again"
                )
            total += value.nbytes
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, dict) else value
    if total > max(SHARED * size, _LITTLE):
        raise DigitError(
            f"{where} of {size:,} bytes holds tensors of {total:,}, which share the same ones: get it again"
        )


def _check_pickles(file: BinaryIO, path: Path, *, zipped: bool) -> None:
    """Refuse what torch's restricted reader would carry out and no weights need: bytes out of numbers.

    `bytearray(10**10)` takes ten gigabytes in a file of a hundred bytes; some encodings double their bytes.
    """
    named = set[str]()
    # torch says what is wrong, and has gone no further then; what claims 2^60 bytes is no lack of memory.
    with contextlib.suppress(*READERS_RAISE, MemoryError):
        if zipped:
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    if name.endswith("data.pkl"):
                        _add_names(BytesIO(archive.read(name)), named)
        else:  # before 1.6 torch wrote five pickles one after another, then the numbers
            file.seek(0)
            for _ in range(5):
                _add_names(file, named)
    if "_codecs.encode" not in named:
        named.difference_update(_GROWING)
    if bad := sorted(name for name in named if name in (*_MADE, *_GROWING)):
        raise DigitError(
            f"{path} names {readable(bad[0], 80)}, which makes bytes that no weights need: get it again"
        )


def _add_names(file: Any, named: set[str]) -> None:
    """Add the globals and the short texts of a pickle, up to where it is none any more."""
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            named.add(str(argument).replace(" ", "."))
        elif isinstance(argument, str) and len(argument) < 32:
            named.add(re.sub(r"\W", "_", argument.lower()))


def _read_numpy(file: BinaryIO, path: Path) -> Tensor:
    try:
        # Mapping checks the announced size against the file before any memory is taken.
        array = np.load(name_of(file), mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except READERS_RAISE as error:
        raise _damaged(path, "NumPy", error) from None


def _damaged(path: Path, kind: str, error: BaseException) -> DigitError:
    what = readable((str(error).strip() or type(error).__name__).splitlines()[-1], 160)
    return DigitError(
        f"{path} is damaged, or holds more than numbers ({what}); nothing in it was run: download or copy "
        f"it again, or give another {kind} file"
    )

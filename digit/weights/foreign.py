"""Files that others wrote, read without running anything in them, and checked against what they should hold.

The one place of digit that opens pickles. torch's restricted reader builds tensors, plain containers and the
inert classes below; it never imports or calls what a file names.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from digit.errors import DigitError
from digit.opening import name_of, open_regular
from digit.printing import listed, readable
from digit.tensors import tensors_in

NAMES = 12  # tensors of a kind that a sentence names at most
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
    if found := misfits(tensors, layout):
        raise DigitError(f"{where} is not the file it seems to be, its tensors do not fit: {found}")


def misfits(tensors: Mapping[str, Tensor], layout: Layout) -> str:
    """The first names of missing, unknown and wrongly shaped tensors, and how many more there are of each."""
    problems = {
        "missing": [name for name in layout if name not in tensors],
        "unknown": [name for name in tensors if name not in layout],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} for {list(shape)}"
            for name, shape in layout.items()
            if name in tensors and tuple(tensors[name].shape) != tuple(shape)
        ],
    }
    return "; ".join(f"{what}: {listed(names, NAMES)}" for what, names in problems.items() if names)


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, by the rest of their names."""
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
    except Exception as error:  # a header that lies may raise anything
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
    file.seek(0)
    source: Any = name_of(file) if mmap else file
    if mmap and source.endswith(".safetensors"):  # torch would believe it, on systems without names of files
        source, mmap = file, False
    with torch.serialization.safe_globals(_INERT):
        try:
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception as error:  # damaged bytes send an interpreter of pickles anywhere
            named = re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", str(error))
            if named is None or not isinstance(error, pickle.UnpicklingError):
                raise _damaged(path, "PyTorch", error) from None
    name = named[1] if "." in named[1] else f"builtins.{named[1]}"  # torch leaves that module out
    raise DigitError(
        f"{path} names {readable(name, 160)}, which is no weight; it was not run: use a file that holds only "
        "tensors, such as a state dict that its author saves alone"
    )


def _read_numpy(file: BinaryIO, path: Path) -> Tensor:
    try:
        # Mapping checks the announced size against the file before any memory is taken.
        array = np.load(name_of(file), mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except Exception as error:  # NumPy, on what is no table of its own
        raise _damaged(path, "NumPy", error) from None


def _damaged(path: Path, kind: str, error: BaseException) -> DigitError:
    what = readable((str(error).strip() or type(error).__name__).splitlines()[-1], 160)
    return DigitError(
        f"{path} is damaged, or holds more than numbers ({what}); nothing in it was run: download or copy "
        f"it again, or give another {kind} file"
    )

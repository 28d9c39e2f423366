"""ADM's files of pictures: `arr_0` uint8 n h w 3, labels `arr_1`; written and read piece by piece."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from digit.errors import DigitError
from digit.evaluation.frechet import Gaussian
from digit.files import atomic_path

# What zipfile and NumPy raise on files that are no arrays of theirs.
_DAMAGED = (
    OSError, KeyError, ValueError, TypeError, EOFError, SyntaxError, NotImplementedError, RuntimeError,
    MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class NpzWriter:
    """Writes n pictures as they come, in the memory of one batch; the file is whole or absent.

    Use it as a context: `with NpzWriter(path, 50000) as file: file.add(pixels, labels)`. Leaving it raises
    DigitError if the number of pictures is another. Equal pictures give equal bytes.
    """

    def __init__(self, path: str | Path, n: int) -> None:
        self.path, self.n, self.done = Path(path), n, 0
        self._stack = ExitStack()
        self._shape: tuple[int, ...] | None = None
        self._labels: list[int] = []

    def __enter__(self) -> "NpzWriter":
        """Open a temporary file beside the path."""
        temporary = self._stack.enter_context(atomic_path(self.path))
        try:
            self._archive = self._stack.enter_context(zipfile.ZipFile(temporary, "w"))
            self._array = self._stack.enter_context(_member(self._archive, "arr_0"))
        except BaseException:
            self._stack.close()
            raise
        return self

    def add(self, pixels: UInt8[Tensor, "b 3 h w"], labels: Sequence[int] | None = None) -> None:
        """Append a batch, from any device; labels for all batches or for none."""
        rows = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        if self._shape is None:
            self._shape = rows.shape[1:]
            np.lib.format.write_array_header_1_0(self._array, _header(np.uint8, (self.n, *self._shape)))
        if rows.shape[1:] != self._shape:
            raise DigitError(
                f"{self.path} holds pictures of {self._shape}, not of {rows.shape[1:]}: write equal sizes"
            )
        given = [] if labels is None else [int(label) for label in labels]
        if len(self._labels) + len(given) not in (0, self.done + len(rows)):
            raise DigitError(f"{self.path} needs a label for every picture or for none: give one each")
        self._array.write(rows.data.cast("B"))
        self._labels += given
        self.done += len(rows)

    def __exit__(self, *error: Any) -> None:
        """Put the file in its place, or remove it after an error."""
        if error[0] is None:
            try:
                self._finish()
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._stack.__exit__(*error)

    def _finish(self) -> None:
        if self.done != self.n or self._shape is None:
            raise DigitError(
                f"{self.path} was to hold {self.n} pictures and got {self.done}: write them again"
            )
        self._array.close()
        if self._labels:
            with _member(self._archive, "arr_1") as file:
                np.lib.format.write_array(file, np.asarray(self._labels, dtype=np.int64), allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    # The time in a ZipInfo made by hand is 1980, whenever the file is written.
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


def _header(dtype: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}


@dataclass(frozen=True, eq=False)
class Npz:
    """What a file of ADM's form holds; pictures are read when they are asked for."""

    path: Path
    n: int  # pictures; 0 without arr_0
    side: int  # px, the shorter side; 0 without arr_0
    labels: Int[Tensor, " n"] | None
    pooled: Gaussian | None  # mu, sigma: statistics of InceptionV3's features of a whole data set
    spatial: Gaussian | None  # mu_s, sigma_s: of its spatial features

    def batches(self, batch_size: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        """The pictures in order; DigitError if the file ends early."""
        with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as file:
            (n, height, width, _), _ = _read_header(file)
            for start in range(0, n, batch_size):
                count = min(batch_size, n - start)
                try:
                    data = file.read(count * height * width * 3)
                except _DAMAGED as error:
                    raise DigitError(f"{self.path} is damaged ({error}): make or copy it again") from None
                if len(data) != count * height * width * 3:
                    raise DigitError(f"{self.path} ends after {start} of {n} pictures: make or copy it again")
                array = np.frombuffer(data, np.uint8).reshape(count, height, width, 3)
                yield torch.from_numpy(array.transpose(0, 3, 1, 2).copy())


def open_npz(path: str | Path) -> Npz:
    """Look into a file of pictures, of statistics (mu, sigma, mu_s, sigma_s), or of both, as ADM's are.

    DigitError if it is neither, or damaged.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            shape, dtype = (0, 0, 0, 3), np.dtype(np.uint8)
            if "arr_0.npy" in names:
                with archive.open("arr_0.npy") as file:
                    shape, dtype = _read_header(file)
        arrays = {}
        with np.load(path, allow_pickle=False) as content:
            for name in ("arr_1", "mu", "sigma", "mu_s", "sigma_s"):
                if name in content:
                    arrays[name] = torch.from_numpy(np.ascontiguousarray(content[name]))
    except _DAMAGED as error:
        raise DigitError(
            f"{path} cannot be read ({error}): give pictures as arr_0, uint8 n h w 3, in an .npz file"
        ) from None
    if "arr_0.npy" not in names and "mu" not in arrays:
        raise DigitError(
            f"{path} has neither pictures nor statistics mu, sigma: give pictures as arr_0, uint8 n h w 3"
        )
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise DigitError(f"arr_0 of {path} is {dtype} {shape}: give pictures as uint8 n h w 3")
    labels = arrays["arr_1"].long() if "arr_1" in arrays else None
    pooled, spatial = (_gaussian(arrays, end, path) for end in ("", "_s"))
    return Npz(path, shape[0], min(shape[1:3]), labels, pooled, spatial)


def _gaussian(arrays: dict[str, Tensor], end: str, path: Path) -> Gaussian | None:
    mean, covariance = arrays.get(f"mu{end}"), arrays.get(f"sigma{end}")
    if mean is None and covariance is None:
        return None
    if (
        mean is None
        or covariance is None
        or mean.ndim != 1
        or tuple(covariance.shape) != (len(mean), len(mean))
        or not (mean.is_floating_point() and covariance.is_floating_point())
    ):
        raise DigitError(
            f"mu{end} and sigma{end} of {path} are no mean and covariance: make or copy it again"
        )
    return Gaussian(mean.double(), covariance.double())


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran:
        raise ValueError("its axes are in Fortran's order")
    return shape, dtype

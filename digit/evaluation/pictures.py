"""Where measured pictures come from: a folder, zip or tar shards, an .npz as of ADM, tensors."""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from digit.data.decode import BrokenImage, decode
from digit.data.images import open_images
from digit.data.loader import stream
from digit.errors import DigitError


@dataclass(frozen=True, eq=False)
class Pictures:
    """A set of pictures to stream once."""

    name: str  # for messages
    batches: Iterable[Tensor]  # uint8 b 3 h w
    n: int | None = None  # None if only the end will tell
    labels: Int[Tensor, " n"] | None = None
    classes: tuple[str, ...] = ()  # names of the labels; () if unknown
    size: int | None = None  # px; None if only the pictures will tell


Source = str | Path | Tensor | Iterable[Tensor] | Pictures  # uint8 tensors are n 3 h w


def open_pictures(source: Source, *, size: int | None = None, batch_size: int = 256) -> Pictures:
    """A set as batches of uint8 pixels; files are rendered at `size` px, or the first's short side."""
    if isinstance(source, Pictures):
        return source
    if isinstance(source, Tensor):
        side = source.shape[-1] if source.ndim == 4 else None
        return Pictures("the tensor of pictures", source.split(batch_size), len(source), size=side)
    if not isinstance(source, str | Path):
        batches = iter(source)
        first = next(batches, None)  # read ahead: its size decides at which the reference is rendered
        if first is None:
            raise DigitError("the stream of pictures holds no pictures: give some")
        side = first.shape[-1] if first.ndim == 4 else None
        return Pictures("the stream of pictures", chain([first], batches), size=side)
    if Path(source).suffix == ".npz":
        return _open_npz(Path(source), batch_size)
    images = open_images(source)
    if size is None:
        try:
            size = min(decode(images.read(0)).size)
        except BrokenImage as error:
            raise DigitError(
                f"{images.names[0]} in {source} cannot be read ({error}): repair or remove it"
            ) from None
    batches = (pixels[:, 0] for _, pixels in stream(images, size, batch_size=batch_size, strict=True))
    labels = None if images.labels is None else torch.from_numpy(images.labels)
    return Pictures(str(source), batches, len(images), labels, tuple(images.classes), size)


def _open_npz(path: Path, batch_size: int) -> Pictures:
    """ADM's format: `arr_0` bytes n h w 3, labels `arr_1` if there are any; streamed: 50,000 are 10 GB."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
            shape, dtype = _npy_header(file)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DigitError(
            f"{path} has no readable array arr_0 ({error}): give pictures as arr_0, uint8 n h w 3"
        ) from None
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise DigitError(f"arr_0 of {path} is {dtype} {shape}: give pictures as uint8 n h w 3")
    n, height, width, _ = shape

    def batches() -> Iterator[Tensor]:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
            _npy_header(file)
            for start in range(0, n, batch_size):
                count = min(batch_size, n - start)
                data = file.read(count * height * width * 3)
                if len(data) != count * height * width * 3:
                    raise DigitError(f"{path} ends after {start} of {n} pictures: make or copy it again")
                array = np.frombuffer(data, np.uint8).reshape(count, height, width, 3)
                yield torch.from_numpy(array.transpose(0, 3, 1, 2).copy())

    with np.load(path, allow_pickle=False) as arrays:
        labels = torch.from_numpy(arrays["arr_1"].astype(np.int64)) if "arr_1" in arrays else None
    return Pictures(str(path), batches(), n, labels, size=min(height, width))


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran:
        raise ValueError("its axes are in Fortran's order")
    return shape, dtype

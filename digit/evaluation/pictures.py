"""Where measured pictures come from: a folder, zip or tar shards, an .npz as of ADM, tensors.

ADM's files hold `arr_0` uint8 n h w 3 and labels `arr_1`; they are written and read piece by piece.
"""

import contextlib
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from digit.arrays import READERS_RAISE
from digit.bounds import Batch, Side
from digit.calls import checked
from digit.data.decode import BrokenImage, decode
from digit.data.images import ImageSource, open_images
from digit.data.loader import Square, in_blocks, stream
from digit.data.transforms import resize
from digit.distributed import rank, world_size
from digit.errors import DigitError
from digit.evaluation.scores import Gaussian
from digit.files import atomic_file
from digit.opening import open_regular
from digit.printing import readable
from digit.progress import say

_NAMED = ("arr_0", "arr_1", "mu", "sigma", "mu_s", "sigma_s")  # arrays of an .npz that are read
_LARGEST, _FEATURES = 64_000_000, 2**12  # pixels of a picture, features of which there are statistics
_AT_ONCE = 2**28  # bytes of pictures read at once, unless one is larger
LOOKED_AT = 256  # files whose sizes decide at which a set is measured


@dataclass(frozen=True, eq=False)
class Pictures:
    """A set of pictures to stream once."""

    name: str  # for messages
    batches: Iterable[Tensor]  # uint8 b 3 h w
    n: int | None = None  # None if only the end will tell
    labels: Int[Tensor, " n"] | None = None
    classes: tuple[str, ...] = ()  # names of the labels; () if unknown
    size: int | None = None  # px; None if only the pictures will tell
    pooled: Gaussian | None = None  # statistics of FID's features that came with the file
    spatial: Gaussian | None = None  # and of sFID's


Head = tuple[tuple[int, ...], np.dtype]  # shape and type of an array
_NONE: Head = ((0, 0, 0, 3), np.dtype(np.uint8))  # no pictures
Source = str | Path | ImageSource | Tensor | Iterable[Tensor] | Pictures  # uint8 tensors or arrays n 3 h w


@checked
def open_pictures(
    source: Source, *, size: Side | None = None, batch_size: Batch = 256, bilinear: bool = False
) -> Pictures:
    """A set as batches of uint8 pixels; files are rendered at `size` px, or at their commonest short side.

    Where files have several sizes or are no squares, a line on standard error says what is measured of them.
    `bilinear` renders as torchvision's Resize and CenterCrop do, otherwise bicubic. DigitError if there are
    no pictures; one that cannot be read raises DigitError when its batch is due.
    """
    if isinstance(source, Pictures):
        return source
    if isinstance(source, Tensor | np.ndarray):
        pixels = torch.as_tensor(source)
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise DigitError(f"pictures of the shape {tuple(pixels.shape)} are none: give uint8 n 3 h w")
        return Pictures(
            "the tensor of pictures", pixels.split(batch_size), len(pixels), size=pixels.shape[-1]
        )
    if isinstance(source, ImageSource):
        return of_images(source, size=size, batch_size=batch_size, bilinear=bilinear)
    if not isinstance(source, str | Path):
        batches = map(torch.as_tensor, source)
        first = next(batches, None)  # read ahead: its size decides at which the reference is rendered
        if first is None:
            raise DigitError("the stream of pictures holds no pictures: give some")
        side = first.shape[-1] if first.ndim == 4 else None
        return Pictures("the stream of pictures", chain([first], batches), size=side)
    if Path(source).suffix == ".npz":
        return open_npz(source, batch_size)
    return open_pictures(open_images(source), size=size, batch_size=batch_size, bilinear=bilinear)


def of_images(
    images: ImageSource, *, size: int | None = None, batch_size: int = 256, bilinear: bool = False
) -> Pictures:
    """Files that were opened already, as `open_pictures` renders them."""
    seen = _sizes(images)
    sides = Counter(min(each) for each in seen)
    size = size or max(sides, key=lambda side: (sides[side], side))
    square = bilinear_square if bilinear else None
    batches = _Batches(images, size, in_blocks(len(images), batch_size), square)
    labels = None if images.labels is None else torch.from_numpy(images.labels)
    if told := _told(images, seen, size):
        say(told)
    return Pictures(str(images.path), batches, len(images), labels, tuple(images.classes), size)


def _sizes(images: ImageSource) -> list[tuple[int, int]]:
    """Width and height of all pictures, or of LOOKED_AT that are spread evenly over many."""
    places = np.unique(np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).round().astype(int))
    found = []
    for place in places.tolist():
        try:
            found.append(decode(images.read(place)).size)
        except BrokenImage as error:
            raise DigitError(
                f"{images.names[place]} in {images.path} cannot be read ({error}): repair or remove it"
            ) from None
    return found


def _told(images: ImageSource, seen: Sequence[tuple[int, int]], size: int) -> str:
    """What is measured of pictures that are not all alike squares, in a sentence."""
    counts = Counter(seen).most_common()
    if len(counts) == 1 and counts[0][0][0] == counts[0][0][1]:
        return ""
    named = ", ".join(f"{count:,} of {wide}x{high}" for (wide, high), count in counts[:3])
    named += ", and others" if len(counts) > 3 else ""
    looked = "" if len(seen) == len(images) else f" of {len(seen):,} looked at"
    what = f"their middle squares at {size} px" if any(w != h for w, h in seen) else f"all at {size} px"
    kinds = "are of several sizes" if len(counts) > 1 else "are no squares"
    return f"the pictures of {images.path} {kinds} ({named}{looked}): measured are {what} (--size)"


@dataclass(frozen=True)
class _Batches:
    """Batches of files, decoded when it is their turn."""

    images: ImageSource
    size: int
    blocks: Sequence[range]
    square: Square | None

    def __iter__(self) -> Iterator[Tensor]:
        how: dict[str, Any] = {"blocks": self.blocks, "square": self.square, "strict": True}
        most = max(map(len, self.blocks), default=1)
        for _, pixels in stream(self.images, self.size, batch_size=most, **how):
            yield pixels[:, 0]


def shared(pictures: Pictures) -> Pictures:
    """The set with this process's batches alone: of w processes the r-th has batches r, r + w, ...

    They are the batches of one process, so that networks say the same of each picture. Number and labels
    stay those of the whole set.
    """
    first, step = rank(), world_size()
    if isinstance(pictures.batches, _Batches):  # no process decodes the others' files
        here = pictures.batches
        return replace(pictures, batches=replace(here, blocks=here.blocks[first::step]))
    return replace(pictures, batches=islice(pictures.batches, first, None, step))


def without_statistics(pictures: Pictures) -> Pictures:
    """The set, whose own features are to be measured; DigitError if it brings statistics alone."""
    if pictures.n == 0 and pictures.pooled is not None:
        raise DigitError(
            f"{pictures.name} holds statistics and no pictures, which are needed here: give them"
        )
    return replace(pictures, pooled=None, spatial=None)


def bilinear_square(image: Image.Image, size: int) -> Image.Image:
    """A square as by torchvision's Resize(size) and CenterCrop(size) of a picture, bilinear, antialiased."""
    width, height = image.size
    if width < height:
        wide, high = size, int(size * height / width)
    else:
        wide, high = int(size * width / height), size
    if wide * high > 64_000_000:
        raise BrokenImage(f"{width} x {height} px would be {wide} x {high} px at {size} px")
    if (wide, high) != (width, height):
        image = resize(image, (wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return image.crop((left, top, left + size, top + size))


@contextlib.contextmanager
def npz_writer(path: str | Path, n: int) -> Iterator[Callable[..., None]]:
    """Write n pictures as they come, in the memory of one batch; the file is whole or absent.

    Yields `add(pixels, labels=None)`: uint8 b 3 h w from any device, labels for all batches or for none.
    Equal pictures give equal bytes. DigitError where the number, sizes or labels of pictures do not fit.
    """
    sizes: list[tuple[int, ...]] = []  # of every batch
    told: list[int] = []
    with atomic_file(path) as written, zipfile.ZipFile(written, "w") as archive:
        with _member(archive, "arr_0") as array:

            def add(pixels: UInt8[Tensor, "b 3 h w"], labels: Sequence[int] | None = None) -> None:
                """Append a batch."""
                rows = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
                if not sizes:
                    about = {"descr": "|u1", "fortran_order": False, "shape": (n, *rows.shape[1:])}
                    np.lib.format.write_array_header_1_0(array, about)
                elif rows.shape[1:] != sizes[0][1:]:
                    raise DigitError(
                        f"{path} holds pictures of {sizes[0][1:]}, not of {rows.shape[1:]}: write equal sizes"
                    )
                sizes.append(rows.shape)
                told.extend([] if labels is None else map(int, labels))
                if len(told) not in (0, sum(size[0] for size in sizes)):
                    raise DigitError(f"{path} needs a label for every picture or for none: give one each")
                array.write(rows.data.cast("B"))

            yield add
            if (done := sum(size[0] for size in sizes)) != n or not sizes:
                raise DigitError(f"{path} was to hold {n} pictures and got {done}: write them again")
        if told:
            with _member(archive, "arr_1") as file:
                np.lib.format.write_array(file, np.asarray(told, dtype=np.int64), allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    # The time in a ZipInfo made by hand is 1980, whenever the file is written.
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


@checked
def open_npz(path: str | Path, batch_size: int = 256) -> Pictures:
    """A file of pictures, of statistics (mu, sigma, mu_s, sigma_s), or of both, as ADM's are.

    DigitError if it is neither, or damaged; also while its batches are read, where it ends early.
    """
    path = Path(path)
    try:
        with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
            names = archive.namelist()
            heads = {name: _head(archive, name) for name in _NAMED if f"{name}.npy" in names}
            _check_shapes(heads, path)
            arrays = {name: _array(archive, name) for name in heads if name != "arr_0"}
    except READERS_RAISE as error:
        raise DigitError(
            f"{path} cannot be read ({readable(error, 300)}): give pictures as arr_0, uint8 n h w 3, in an "
            ".npz file"
        ) from None
    if "arr_0.npy" not in names and "mu" not in arrays:
        raise DigitError(
            f"{path} has neither pictures nor statistics mu, sigma: give pictures as arr_0, uint8 n h w 3"
        )
    labels, (shape, _) = arrays.get("arr_1"), heads.get("arr_0", _NONE)
    pooled, spatial = (_gaussian(arrays.get(f"mu{s}"), arrays.get(f"sigma{s}"), path) for s in ("", "_s"))
    batches = _npz_batches(path, batch_size) if shape[0] else ()
    size = min(shape[1:3]) or None
    return Pictures(str(path), batches, shape[0], labels, size=size, pooled=pooled, spatial=spatial)


def _npz_batches(path: Path, batch_size: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """The pictures in order; DigitError if the file ends early."""
    with (
        open_regular(path) as opened,
        zipfile.ZipFile(opened) as archive,
        archive.open("arr_0.npy") as file,
    ):
        (n, height, width, _), _ = _read_header(file)
        batch_size = min(batch_size, max(1, _AT_ONCE // (3 * height * width)))
        for start in range(0, n, batch_size):
            count = min(batch_size, n - start)
            try:
                data = file.read(count * height * width * 3)
            except READERS_RAISE as error:
                raise DigitError(
                    f"{path} is damaged ({readable(error, 300)}): make or copy it again"
                ) from None
            if len(data) != count * height * width * 3:
                raise DigitError(f"{path} ends after {start} of {n} pictures: make or copy it again")
            array = np.frombuffer(data, np.uint8).reshape(count, height, width, 3)
            yield torch.from_numpy(array.transpose(0, 3, 1, 2).copy())


def _gaussian(mean: Tensor | None, covariance: Tensor | None, path: Path) -> Gaussian | None:
    if mean is None and covariance is None:
        return None
    if (
        mean is None
        or covariance is None
        or mean.ndim != 1
        or tuple(covariance.shape) != (len(mean), len(mean))
        or not (mean.is_floating_point() and covariance.is_floating_point())
    ):
        raise DigitError(f"mu and sigma of {path} are no mean and covariance: make or copy it again")
    return Gaussian(mean.double(), covariance.double())


def _check_shapes(heads: Mapping[str, Head], path: Path) -> None:
    """DigitError for arrays that no pictures, labels or statistics are; none has been read."""

    def refuse(name: str, meant: str) -> None:
        shape, dtype = heads[name]
        raise DigitError(f"{name} of {path} is {dtype} {readable(shape, 60)}: give {meant}")

    shape, dtype = heads.get("arr_0", _NONE)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        refuse("arr_0", "pictures as uint8 n h w 3")
    if shape[0] and not 1 <= shape[1] * shape[2] <= _LARGEST:
        refuse("arr_0", f"pictures of 1 to {_LARGEST:,} pixels")
    if "arr_1" in heads and (heads["arr_1"][0] != shape[:1] or heads["arr_1"][1].kind not in "iu"):
        refuse("arr_1", "a whole number for each picture as labels")
    for name in ("mu", "sigma", "mu_s", "sigma_s"):
        if name not in heads:
            continue
        sides, kind = heads[name]
        if len(sides) > 2 or max(sides, default=0) > _FEATURES or kind.kind != "f":
            refuse(name, f"mean and covariance of at most {_FEATURES:,} features")


def _head(archive: zipfile.ZipFile, name: str) -> Head:
    """Shape and type of an array, as large as its member says; ValueError else."""
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _read_header(file)
        announced, there = math.prod(shape) * dtype.itemsize, archive.getinfo(f"{name}.npy").file_size
        if min(shape, default=0) < 0 or dtype.hasobject or file.tell() + announced != there:
            raise ValueError(f"{name} announces {announced:,} bytes, its member has {there:,}")
    return shape, dtype


def _array(archive: zipfile.ZipFile, name: str) -> Tensor:
    """An array, whole numbers as int64; it has been looked at by `_head`."""
    with archive.open(f"{name}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return torch.from_numpy(array.astype(np.int64 if array.dtype.kind in "iu" else np.float64))


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran:
        raise ValueError("its axes are in Fortran's order")
    return shape, dtype

"""Where measured pictures come from: a folder, zip or tar shards, an .npz as of ADM, tensors."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from digit.data.decode import BrokenImage, decode
from digit.data.images import ImageSource, open_images
from digit.data.loader import Square, in_blocks, stream
from digit.data.transforms import resize
from digit.distributed import rank, world_size
from digit.errors import DigitError
from digit.evaluation.frechet import Gaussian
from digit.evaluation.npz import Npz, open_npz


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


Source = str | Path | Tensor | Iterable[Tensor] | Pictures  # uint8 tensors are n 3 h w


def open_pictures(
    source: Source, *, size: int | None = None, batch_size: int = 256, bilinear: bool = False
) -> Pictures:
    """A set as batches of uint8 pixels; files are rendered at `size` px, or the first's short side.

    `bilinear` renders as torchvision's Resize and CenterCrop do, otherwise bicubic. DigitError if there are
    no pictures; one that cannot be read raises DigitError when its batch is due.
    """
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
        return _from_npz(open_npz(source), batch_size)
    return of_images(open_images(source), size=size, batch_size=batch_size, bilinear=bilinear)


def of_images(
    images: ImageSource, *, size: int | None = None, batch_size: int = 256, bilinear: bool = False
) -> Pictures:
    """Files that were opened already, as `open_pictures` renders them."""
    if size is None:
        try:
            size = min(decode(images.read(0)).size)
        except BrokenImage as error:
            raise DigitError(
                f"{images.names[0]} in {images.path} cannot be read ({error}): repair or remove it"
            ) from None
    square = bilinear_square if bilinear else None
    batches = _Batches(images, size, in_blocks(len(images), batch_size), square)
    labels = None if images.labels is None else torch.from_numpy(images.labels)
    return Pictures(str(images.path), batches, len(images), labels, tuple(images.classes), size)


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


def _from_npz(file: Npz, batch_size: int) -> Pictures:
    batches = file.batches(batch_size) if file.n else ()
    return Pictures(
        str(file.path),
        batches,
        file.n,
        file.labels,
        size=file.side or None,
        pooled=file.pooled,
        spatial=file.spatial,
    )

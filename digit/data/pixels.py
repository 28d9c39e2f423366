"""Training pictures on the device: a batch is a pure function of (seed, step), flips and crops included."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from digit.data.ahead import Ahead, sent
from digit.data.images import ImageSource
from digit.data.loader import Report, load_pixels
from digit.data.order import order
from digit.data.transforms import ENLARGED
from digit.distributed import share
from digit.errors import DigitError
from digit.nn.batch import PixelBatch

_BLOCK = 4096  # pictures decoded between two reports of progress


class PixelData:
    """`data(step)` gives the batch of a step, on `device`, whatever was asked before.

    Of several processes each gets its own rows of the batch; which picture, crop and flip a row has does not
    depend on how many there are. Raises DigitError where `batch_size`, which is that of all together, does
    not divide among them.

    A set whose uint8 pixels fit `memory_limit_bytes` is decoded once and kept on the device; a larger one is
    decoded one step ahead in the background. Both give the same pixels. `flip` mirrors half of the pictures;
    `crop` resizes the short side to 1.125 times the size and cuts a random square. A broken picture goes to
    `report`, and the next readable one takes its place. `progress(done, total)` is called while the set is
    decoded. Raises DigitError when no picture can be read.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        size: int,
        batch_size: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
        flip: bool = True,
        crop: bool = False,
        memory_limit_bytes: int = 2_000_000_000,
        threads: int | None = None,
        report: Report | None = None,
        strict: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Decodes the whole set when it fits; `source`, `size` in pixels and `batch_size` fix the shapes."""
        self.size, self.batch_size, self.seed, self.flip, self.crop = size, batch_size, seed, flip, crop
        self.device, self._here = torch.device(device), share(batch_size, "training: batch")
        self.report = Report() if report is None else report
        self._source, self._threads, self._strict = source, threads, strict
        self._side = int(size * ENLARGED) if crop else size
        self._readable: dict[int, int] = {}  # broken index -> the one that takes its place
        self._labels = None if source.labels is None else torch.from_numpy(source.labels).to(self.device)
        fits = len(source) * 3 * self._side**2 <= memory_limit_bytes
        self._pixels = self._decode_all(progress).to(self.device) if fits else Ahead(self._fetch)

    def __len__(self) -> int:
        """Number of pictures, broken ones included."""
        return len(self._source)

    def __call__(self, step: int) -> PixelBatch:
        """This process's rows of the batch of `step`, counted from 0."""
        if isinstance(self._pixels, Ahead):
            indices, pixels = self._pixels(step)
            rows, pixels = np.arange(len(indices)), sent(pixels, self.device)
        else:
            indices = rows = self._indices(step)
            pixels = self._pixels
        digest = hashlib.sha256(f"{self.seed}/{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        room = self._side - self.size
        drawn = [
            torch.randint(0, many, (self.batch_size,), generator=generator)[self._here]
            for many in (room + 1, room + 1, 2)  # top, left, mirrored
        ]
        draws = torch.stack([torch.from_numpy(rows), torch.from_numpy(indices), *drawn])
        row, index, top, left, mirrored = sent(draws, self.device)
        mirrored = mirrored * int(self.flip)
        labels = None if self._labels is None else self._labels[index]
        return PixelBatch(_cut(pixels, row, top, left, mirrored, self.size).float().div_(255), labels)

    def _decode_all(self, progress: Callable[[int, int], None] | None) -> Tensor:
        total = len(self._source)
        stored = torch.zeros(total, 3, self._side, self._side, dtype=torch.uint8)
        readable = np.zeros(total, dtype=bool)
        for first in range(0, total, _BLOCK):
            last = min(first + _BLOCK, total)
            good, pixels = self._load(np.arange(first, last))
            stored[torch.from_numpy(good)] = pixels
            readable[good] = True
            if progress is not None:
                progress(last, total)
        if not readable.any():
            raise self._all_broken()
        for broken in np.flatnonzero(~readable):
            self._readable[int(broken)] = int((broken + np.argmax(np.roll(readable, -broken))) % total)
        return stored

    def _indices(self, step: int) -> np.ndarray:
        indices = order(self.seed, step, self.batch_size, len(self._source))[self._here]
        return self._instead(indices) if self._readable else indices

    def _instead(self, indices: np.ndarray) -> np.ndarray:
        """The indices, those of broken pictures replaced."""
        return np.array([self._readable.get(index, index) for index in indices.tolist()])

    def _fetch(self, step: int) -> tuple[np.ndarray, Tensor]:
        """Indices and pixels of a step, each broken picture replaced by the next readable one."""
        indices = self._indices(step)
        good, pixels = self._load(indices)
        if len(good) == len(indices):
            return indices, pixels
        found = dict(zip(good.tolist(), pixels, strict=True))
        for index in set(indices.tolist()) - set(found):
            place = index
            while place not in found:
                place = (place + 1) % len(self._source)
                if place == index:
                    raise self._all_broken()
                if place not in found:
                    good, pixels = self._load([place])
                    found.update(zip(good.tolist(), pixels, strict=True))
            self._readable[index] = place
        indices = self._instead(indices)
        return indices, torch.stack([found[index] for index in indices.tolist()])

    def _load(self, indices: np.ndarray | list[int]) -> tuple[np.ndarray, Tensor]:
        return load_pixels(
            self._source, indices, self._side, threads=self._threads, report=self.report, strict=self._strict
        )

    def _all_broken(self) -> DigitError:
        return DigitError(f"no picture of {self._source.path} can be read. {self.report.summary()}")


def _cut(pixels: Tensor, row: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """The size x size windows at (top, left) of the chosen rows, mirrored where asked, in one gather."""
    steps = torch.arange(size, device=pixels.device)
    across = torch.where(mirrored[:, None].bool(), size - 1 - steps, steps) + left[:, None]
    down = steps + top[:, None]
    channels = torch.arange(3, device=pixels.device)
    row, channels = row[:, None, None, None], channels[None, :, None, None]
    return pixels[row, channels, down[:, None, :, None], across[:, None, None, :]]

"""Pictures -> uint8 pixels on threads or in processes: in order, in bounded memory, broken ones reported.

Pillow lets go of Python's lock while it decodes and resamples, but not in between: on 16 processors, 16
threads decode less than 8 do, and 16 processes three times as much (bench/tokenizer.py). Processes start by
fork, so that they read what the source reads, and share the memory that they fill.
"""

import math
import mmap
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from digit.data.decode import BrokenImage, decode
from digit.data.images import ImageSource
from digit.data.transforms import render
from digit.distributed import gather
from digit.errors import DigitError
from digit.files import write_json_atomic

_AHEAD = 2  # batches decoded while one is used
_FOR_EACH = 64  # pictures on their way for each process
_MANY = 4096  # pictures from which on processes are worth starting
_CHUNK = 32  # pictures of one task

Broken = list[tuple[int, str]]  # (place in a batch, reason)
Square = Callable[[Image.Image, int], Image.Image]  # (picture, size) -> the picture as a square of that size


@dataclass
class Report:
    """Pictures that were left out, and why."""

    reasons: dict[str, str] = field(default_factory=dict)  # by name

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Names and reasons, in the order in which they were found."""
        return list(self.reasons.items())

    def add(self, name: str, reason: str) -> None:
        """Notes a picture; a second time is ignored."""
        self.reasons.setdefault(name, reason)

    def over_processes(self, names: Sequence[str]) -> "Report":
        """All processes' together, in the order of `names`, the source's; in all of them."""
        found = {name: reason for part in gather(self.skipped) for name, reason in part}
        return Report({name: found[name] for name in names if name in found})

    def summary(self) -> str:
        """One sentence for the end of a command."""
        if not self.reasons:
            return "No picture was skipped."
        name, reason = self.skipped[0]
        count = "1 picture was" if len(self.reasons) == 1 else f"{len(self.reasons):,} pictures were"
        return f"{count} skipped, the first is {name} ({reason})."

    def write(self, path: Path) -> None:
        """All of them as JSON, for the user to repair or remove."""
        rows = [{"name": name, "reason": reason} for name, reason in self.skipped]
        write_json_atomic(path, {"skipped": rows})


@dataclass(frozen=True)
class _Views:
    """What is made of each picture, as in `render`."""

    size: int
    views: Sequence[int]
    seed: int
    square: Square | None = None  # comes first

    def shape(self, pictures: int) -> tuple[int, ...]:
        """Of the pixels of a batch."""
        return pictures, len(self.views), 3, self.size, self.size


def load_pixels(
    source: ImageSource,
    indices: Int[np.ndarray, " n"] | Sequence[int],
    size: int,
    *,
    view: int = 0,
    seed: int = 0,
    threads: int | None = None,
    report: Report | None = None,
    strict: bool = False,
) -> tuple[Int[np.ndarray, " m"], UInt8[Tensor, "m 3 {size} {size}"]]:
    """The readable pictures among `indices`, in that order, with their indices; `view` as in `render`.

    The rest goes to `report`; with `strict` the first one raises DigitError. `threads` None is one per
    processor, at most 16, and two for files of a few kB.
    """
    report = Report() if report is None else report
    with closing(_Pool(source, _Views(size, [view], seed), _threads(threads, source))) as pool:
        good, pixels = pool.finish(pool.begin(np.asarray(indices, dtype=np.int64)), report, strict)
    return good, pixels[:, 0]


def stream(
    source: ImageSource,
    size: int,
    *,
    batch_size: int,
    views: int = 1,
    seed: int = 0,
    blocks: Iterable[range] | None = None,
    square: Square | None = None,
    threads: int | None = None,
    report: Report | None = None,
    strict: bool = False,
    empty: bool = False,
) -> Iterator[tuple[Int[np.ndarray, " m"], UInt8[Tensor, "m {views} 3 {size} {size}"]]]:
    """Pictures in order, `batch_size` at a time, each decoded once for views 0 to views-1.

    A batch lacks its broken pictures (see `load_pixels`), so m <= batch_size; its indices say which are
    there. `blocks` are the pictures to read, all if left out; a batch ends where its block does, so the
    batches of a block do not depend on which other blocks are read. A batch without a readable picture comes
    only if `empty`. `square` makes a picture of the size otherwise than `render` does; it may raise
    BrokenImage.

    Decoding runs two batches ahead and no further. Where there are 8 processors or more, thousands of
    pictures are decoded in processes, unless `threads` are given; then further ahead if batches are small.
    """
    report = Report() if report is None else report
    blocks = [range(len(source))] if blocks is None else list(blocks)
    batches = (
        np.arange(first, min(first + batch_size, block.stop), dtype=np.int64)
        for block in blocks
        for first in range(block.start, block.stop, batch_size)
    )
    made, ahead = _Views(size, range(views), seed, square), _AHEAD
    workers = _processes(source, sum(map(len, blocks))) if threads is None else 0
    if workers:
        ahead = max(_AHEAD, -(-workers * _FOR_EACH // batch_size))
        pool = _Pool(source, made, workers, slots=ahead + 1, batch_size=batch_size)
    else:
        pool = _Pool(source, made, _threads(threads, source))
    waiting: deque[_Batch] = deque()
    with closing(pool):
        while True:
            while len(waiting) <= ahead and (indices := next(batches, None)) is not None:
                waiting.append(pool.begin(indices))
            if not waiting:
                return
            good, pixels = pool.finish(waiting.popleft(), report, strict)
            if len(good) or empty:
                yield good, pixels


def in_blocks(count: int, size: int) -> list[range]:
    """`count` pictures as blocks of `size`, the last one shorter; of w processes, r reads r, r + w, ..."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _processes(source: ImageSource, pictures: int) -> int:
    """Processes that decode so many pictures; none where threads do as well, or fork is not there."""
    workers = min(_processors(), 32)
    enough = pictures >= _MANY and workers >= 8 and not _tiny(source)
    return workers if enough and sys.platform == "linux" else 0


def _threads(threads: int | None, source: ImageSource) -> int:
    if threads is not None:
        return threads
    # Tiny pictures are decoded faster than threads hand over the interpreter: 4 are slower than 2.
    return min(_processors(), 2 if _tiny(source) else 16)


def _processors() -> int:
    """Processors for this process: those of the host are shared among the processes that train on it."""
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, every // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _tiny(source: ImageSource) -> bool:
    """Whether pictures are files of a few kB."""
    try:
        return len(source.read(0)) < 8192
    except BrokenImage:
        return False


class _Batch(NamedTuple):
    """Pictures that are being decoded."""

    indices: Int[np.ndarray, " n"]
    pixels: UInt8[np.ndarray, "n v 3 s s"]  # filled by the tasks
    tasks: list[Future[Broken]]
    slot: int | None = None  # of the memory that processes share


class _Pool:
    """Decodes batches on threads, each batch into memory of its own; or in processes, if there are `slots`.

    Processes have the source as it is now, and share memory for so many batches of at most `batch_size`
    pictures, which are copied out when they are ready. DigitError when one of them was killed.
    """

    def __init__(
        self, source: ImageSource, made: _Views, workers: int, *, slots: int = 0, batch_size: int = 0
    ) -> None:
        self._source, self._made, self._free = source, made, list(range(slots))
        self._executor: Executor
        if not slots:
            self._executor = ThreadPoolExecutor(workers)
            return
        shape = (slots, *made.shape(batch_size))
        # Without a file, so that no small /dev/shm limits it.
        self._slots = np.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=np.uint8).reshape(shape)
        forked = (multiprocessing.get_context("fork"), _join, (source, made, self._slots))
        self._executor = ProcessPoolExecutor(workers, *forked)

    def begin(self, indices: Int[np.ndarray, " n"]) -> _Batch:
        """Decode a batch of pictures in the background."""
        parts = [(first, indices[first : first + _CHUNK]) for first in range(0, len(indices), _CHUNK)]
        if isinstance(self._executor, ThreadPoolExecutor):
            pixels = np.empty(self._made.shape(len(indices)), dtype=np.uint8)
            fill = partial(_fill, self._source, self._made, pixels)
            return _Batch(indices, pixels, [self._executor.submit(fill, *part) for part in parts])
        slot = self._free.pop()
        with _all_alive():
            tasks = [self._executor.submit(_fill_slot, slot, *part) for part in parts]
        return _Batch(indices, self._slots[slot, : len(indices)], tasks, slot)

    def finish(
        self, batch: _Batch, report: Report, strict: bool
    ) -> tuple[Int[np.ndarray, " m"], UInt8[Tensor, "m v 3 s s"]]:
        """Wait for a batch: its readable pictures; the rest goes to `report`, or raises if `strict`."""
        with _all_alive():
            broken = [row for task in batch.tasks for row in task.result()]
        pixels = torch.from_numpy(batch.pixels)
        if batch.slot is not None:
            pixels = pixels.clone()
            self._free.append(batch.slot)
        if not broken:
            return batch.indices, pixels
        keep = np.ones(len(batch.indices), dtype=bool)
        for place, reason in broken:
            name = self._source.names[int(batch.indices[place])]
            if strict:
                where = self._source.path
                raise DigitError(f"{name} in {where} cannot be read ({reason}): repair or remove it")
            report.add(name, reason)
            keep[place] = False
        return batch.indices[keep], pixels[torch.from_numpy(keep)]

    def close(self) -> None:
        """End the workers; what none has begun is left out."""
        self._executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _all_alive() -> Iterator[None]:
    """DigitError for what an executor raises when one of its processes was killed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise DigitError(
            "a process that decodes pictures was killed, maybe for want of memory: free some and run the "
            "command again"
        ) from error


def _fill(
    source: ImageSource, made: _Views, pixels: np.ndarray, first: int, indices: Int[np.ndarray, " n"]
) -> Broken:
    """Fill the pixels of a batch with pictures, from place `first` on."""
    broken = []
    for place, index in enumerate(indices.tolist(), start=first):
        try:
            image = decode(source.read(index))
            if made.square is not None:
                image = made.square(image, made.size)
        except BrokenImage as error:
            broken.append((place, str(error)))
            continue
        for row, view in enumerate(made.views):
            pixels[place, row] = render(image, made.size, view=view, seed=made.seed, name=source.names[index])
    return broken


# In a process: its source, what is made of pictures, and the memory of all batches.
_joined: tuple[ImageSource, _Views, np.ndarray] | None = None


def _join(source: ImageSource, made: _Views, slots: np.ndarray) -> None:
    """What a process does first: it leaves signals to the one that started it, and ends with that."""
    global _joined
    _joined = source, made, slots
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _fill_slot(slot: int, first: int, indices: Int[np.ndarray, " n"]) -> Broken:
    assert _joined is not None
    source, made, slots = _joined
    return _fill(source, made, slots[slot], first, indices)

"""Where pictures are decoded: on threads, or in processes where one interpreter cannot keep processors busy.

Pillow lets go of Python's lock while it decodes and resamples, but not in between: on 16 processors, 16
threads decode less than 8 do, and 16 processes three times as much (bench/tokenizer.py). Processes share the
memory that they fill. They start by fork, so that they read what the source reads, at once.
"""

import mmap
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from digit.data.decode import BrokenImage, decode
from digit.data.images import ImageSource
from digit.data.transforms import render
from digit.errors import DigitError

_CHUNK = 32  # pictures of one task

Broken = list[tuple[int, str]]  # (place in a batch, reason)


@dataclass(frozen=True)
class Views:
    """What is made of each picture, as in `render`."""

    size: int
    views: Sequence[int]
    seed: int

    def shape(self, pictures: int) -> tuple[int, ...]:
        """Of the pixels of a batch."""
        return pictures, len(self.views), 3, self.size, self.size


@dataclass(frozen=True)
class Batch:
    """Pictures that are being decoded."""

    indices: Int[np.ndarray, " n"]
    pixels: UInt8[np.ndarray, "n v 3 s s"]  # filled by the tasks
    tasks: list[Future[Broken]]
    slot: int = 0  # of the memory of `Processes`


class Threads:
    """Tasks on threads of this process; every batch has memory of its own."""

    def __init__(self, source: ImageSource, made: Views, workers: int) -> None:
        self._source, self._made = source, made
        self._pool = ThreadPoolExecutor(workers)

    def begin(self, indices: Int[np.ndarray, " n"]) -> Batch:
        """Decode a batch of pictures in the background."""
        pixels = np.empty(self._made.shape(len(indices)), dtype=np.uint8)
        tasks = [
            self._pool.submit(_fill, self._source, self._made, indices[place], pixels[place], place.start)
            for place in _places(len(indices))
        ]
        return Batch(indices, pixels, tasks)

    def finish(self, batch: Batch) -> tuple[Broken, UInt8[Tensor, "n v 3 s s"]]:
        """Wait for a batch; pixels of broken pictures mean nothing."""
        return _broken(batch), torch.from_numpy(batch.pixels)

    def close(self) -> None:
        """End the threads; what no thread has begun is left out."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Processes:
    """Tasks in processes, as `Threads`; the pixels of a batch are copied out when it is ready.

    Both methods raise DigitError when a process was killed.

    Args:
        source: what is read; the processes have it as it is now.
        made: what of each picture.
        workers: processes.
        batch_size: pictures of a batch at most.
        batches: that are being decoded at once.
    """

    def __init__(
        self, source: ImageSource, made: Views, workers: int, *, batch_size: int, batches: int
    ) -> None:
        self._made = made
        bytes_each = int(np.prod(made.shape(batch_size)))
        # Without a file, so that no small /dev/shm limits it.
        memory = mmap.mmap(-1, max(1, batches * bytes_each))
        slots = np.frombuffer(memory, dtype=np.uint8)[: batches * bytes_each]
        self._slots = slots.reshape(batches, *made.shape(batch_size))
        self._free = list(range(batches))
        self._pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("fork"), _join, (source, made, self._slots)
        )

    def begin(self, indices: Int[np.ndarray, " n"]) -> Batch:
        """Decode a batch of pictures in the background."""
        slot = self._free.pop()
        with _all_alive():
            tasks = [
                self._pool.submit(_fill_slot, indices[place], slot, place.start)
                for place in _places(len(indices))
            ]
        return Batch(indices, self._slots[slot, : len(indices)], tasks, slot)

    def finish(self, batch: Batch) -> tuple[Broken, UInt8[Tensor, "n v 3 s s"]]:
        """Wait for a batch; pixels of broken pictures mean nothing."""
        with _all_alive():
            broken = _broken(batch)
        pixels = torch.from_numpy(batch.pixels).clone()
        self._free.append(batch.slot)
        return broken, pixels

    def close(self) -> None:
        """End the processes; what none has begun is left out."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _all_alive() -> Iterator[None]:
    """DigitError for what the pool raises when one of its processes was killed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise DigitError(
            "a process that decodes pictures was killed, maybe for want of memory: free some and run the "
            "command again"
        ) from error


def _places(count: int) -> list[slice]:
    return [slice(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]


def _broken(batch: Batch) -> Broken:
    return [row for task in batch.tasks for row in task.result()]


def _fill(source: ImageSource, made: Views, indices: np.ndarray, out: np.ndarray, first: int) -> Broken:
    """Fill `out` with pictures, the first of which is number `first` of its batch."""
    broken = []
    for place, index in enumerate(indices.tolist()):
        try:
            image = decode(source.read(index))
        except BrokenImage as error:
            broken.append((first + place, str(error)))
            continue
        for row, view in enumerate(made.views):
            out[place, row] = render(image, made.size, view=view, seed=made.seed, name=source.names[index])
    return broken


# In a process of `Processes`: its source, what is made of pictures, and the memory of all batches.
_joined: tuple[ImageSource, Views, np.ndarray] | None = None


def _join(source: ImageSource, made: Views, slots: np.ndarray) -> None:
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


def _fill_slot(indices: np.ndarray, slot: int, first: int) -> Broken:
    assert _joined is not None
    source, made, slots = _joined
    return _fill(source, made, indices, slots[slot, first : first + len(indices)], first)

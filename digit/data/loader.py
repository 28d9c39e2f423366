"""Pictures -> uint8 pixels on threads or in processes: in order, in bounded memory, broken ones reported."""

import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from digit.data.decode import BrokenImage
from digit.data.images import ImageSource
from digit.data.pools import Batch, Processes, Threads, Views
from digit.distributed import gather
from digit.errors import DigitError

_AHEAD = 2  # batches decoded while one is used
_FOR_EACH = 64  # pictures on their way for each process
_MANY = 4096  # pictures from which on processes are worth starting


@dataclass
class Report:
    """Pictures that were left out, and why."""

    skipped: list[tuple[str, str]] = field(default_factory=list)  # (name, reason), each name once
    _names: set[str] = field(default_factory=set, repr=False)

    def add(self, name: str, reason: str) -> None:
        """Notes a picture; a second time is ignored."""
        if name not in self._names:
            self._names.add(name)
            self.skipped.append((name, reason))

    def over_processes(self, names: Sequence[str]) -> "Report":
        """All processes' together, in the order of `names`, the source's; in all of them."""
        rows = [(name, reason) for part in gather(self.skipped) for name, reason in part]
        chosen = {name for name, _ in rows}
        places = {name: place for place, name in enumerate(names) if name in chosen}
        both = Report()
        for name, reason in sorted(rows, key=lambda row: places[row[0]]):
            both.add(name, reason)
        return both

    def summary(self) -> str:
        """One sentence for the end of a command."""
        if not self.skipped:
            return "No picture was skipped."
        name, reason = self.skipped[0]
        count = "1 picture was" if len(self.skipped) == 1 else f"{len(self.skipped):,} pictures were"
        return f"{count} skipped, the first is {name} ({reason})."

    def write(self, path: Path) -> None:
        """All of them as JSON, for the user to repair or remove."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        rows = [{"name": name, "reason": reason} for name, reason in self.skipped]
        temporary.write_text(json.dumps({"skipped": rows}, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)


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
    indices = np.asarray(indices, dtype=np.int64)
    with closing(Threads(source, Views(size, [view], seed), _threads(threads, source))) as pool:
        batch = pool.begin(indices)
        good, pixels = _collect(pool, batch, source, Report() if report is None else report, strict)
    return good, pixels[:, 0]


def stream(
    source: ImageSource,
    size: int,
    *,
    batch_size: int,
    views: int = 1,
    seed: int = 0,
    blocks: Iterable[range] | None = None,
    threads: int | None = None,
    report: Report | None = None,
    strict: bool = False,
    empty: bool = False,
) -> Iterator[tuple[Int[np.ndarray, " m"], UInt8[Tensor, "m {views} 3 {size} {size}"]]]:
    """Pictures in order, `batch_size` at a time, each decoded once for views 0 to views-1.

    A batch lacks its broken pictures (see `load_pixels`), so m <= batch_size; its indices say which are
    there. `blocks` are the pictures to read, all if left out; a batch ends where its block does, so the
    batches of a block do not depend on which other blocks are read. A batch without a readable picture comes
    only if `empty`.

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
    made, ahead = Views(size, range(views), seed), _AHEAD
    workers = _processes(source, sum(map(len, blocks))) if threads is None else 0
    if workers:
        ahead = max(_AHEAD, -(-workers * _FOR_EACH // batch_size))
        pool = Processes(source, made, workers, batch_size=batch_size, batches=ahead + 1)
    else:
        pool = Threads(source, made, _threads(threads, source))
    waiting: deque[Batch] = deque()
    try:
        while True:
            while len(waiting) <= ahead and (indices := next(batches, None)) is not None:
                waiting.append(pool.begin(indices))
            if not waiting:
                return
            good, pixels = _collect(pool, waiting.popleft(), source, report, strict)
            if len(good) or empty:
                yield good, pixels
    finally:
        pool.close()


def in_blocks(count: int, size: int) -> list[range]:
    """`count` pictures as blocks of `size`, the last one shorter; of w processes, r reads r, r + w, ..."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _collect(
    pool: Threads | Processes, batch: Batch, source: ImageSource, report: Report, strict: bool
) -> tuple[np.ndarray, Tensor]:
    broken, pixels = pool.finish(batch)
    for position, reason in broken:
        name = source.names[int(batch.indices[position])]
        if strict:
            raise DigitError(f"{name} in {source.path} cannot be read ({reason}): repair or remove it")
        report.add(name, reason)
    if not broken:
        return batch.indices, pixels
    keep = np.ones(len(batch.indices), dtype=bool)
    keep[[position for position, _ in broken]] = False
    return batch.indices[keep], pixels[torch.from_numpy(keep)]


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

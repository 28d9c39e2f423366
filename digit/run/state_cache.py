"""Rows of a frozen network, computed once and kept in float16: in memory, or on disk for the next call."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from digit.errors import DigitError
from digit.files import atomic_path, make_folder, read_json, sha256_file, write_json_atomic
from digit.progress import progress, say


class Rows(NamedTuple):
    """Shape of what is kept."""

    count: int
    layers: int
    width: int

    @property
    def bytes(self) -> int:
        """Size in float16."""
        return 2 * self.count * self.layers * self.width


def cached_rows(
    pooled: Callable[[int], Tensor],
    shape: Rows,
    *,
    title: str,
    key: dict[str, Any],
    cache: Path | None,
    limit: float,
    batch: int,
    where: torch.device,
) -> Tensor:
    """float16 rows (count, layers, width): from `cache` if they lie there, else `pooled(start)` in batches.

    Args:
        pooled: the rows from number `start` on, at most `batch` of them.
        shape: of the whole.
        title: of the progress bar.
        key: what decides the rows; its hash names the file.
        cache: folder; the rows come back as a memory map of a file in it. None: memory of `where`.
        limit: bytes that memory may take.
        batch: rows at once.
        where: device.

    Raises:
        DigitError: more than `limit` without a cache, or states too large for float16.
    """
    size = f"{shape.bytes / 1e9:.3g} GB ({shape.count} x {shape.layers} layers x {shape.width}, float16)"
    if cache is None:
        if shape.bytes > limit:
            raise DigitError(f"{title} take {size}, above --memory-gb {limit / 1e9:g}: give --cache FOLDER")
        say(f"{title}: {size} in memory")
        kept = torch.empty(shape, dtype=torch.float16, device=where)
        _fill(kept, pooled, batch, title)
        return kept
    make_folder(cache)
    name = hashlib.sha256(json.dumps([key, shape], sort_keys=True).encode()).hexdigest()[:16]
    path, note = cache / f"{name}.npy", cache / f"{name}.json"
    if not (note.exists() and path.exists() and read_json(note).get("key") == key):
        say(f"{title}: {size} into {path}")
        with atomic_path(path) as temporary:
            file = np.lib.format.open_memmap(temporary, "w+", np.float16, tuple(shape))
            _fill(torch.from_numpy(file), pooled, batch, title)
            file.flush()
        write_json_atomic(note, {"key": key, "sha256": sha256_file(path)}, checksum=True)
    elif read_json(note)["sha256"] != sha256_file(path):
        raise DigitError(f"{path} is not what was written (its checksum differs): delete it and repeat")
    # Copy on write: torch warns of maps that cannot be written, and nothing ever writes here.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def _fill(kept: Tensor, pooled: Callable[[int], Tensor], batch: int, title: str) -> None:
    largest = torch.zeros(())
    with progress(title, len(kept)) as advance:
        for start in range(0, len(kept), batch):
            rows = pooled(start)
            kept[start : start + len(rows)] = rows.to(kept.device, torch.float16)
            largest = torch.maximum(largest.to(rows.device), rows.abs().max())
            advance(len(rows))
    if not float(largest) < 65504:
        raise DigitError(f"{title} reach {float(largest):.3g}, too large for the float16 of the cache")

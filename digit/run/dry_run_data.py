"""--dry-run of `digit fit` and `digit tokenize`: what is found and what it will take; nothing is written."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digit.data.images import ImageSource
from digit.data.write_codes import PART
from digit.distributed import world_size
from digit.files import check_writable
from digit.progress import say
from digit.training.estimate import GIB


def plan_codes(
    source: ImageSource, out: Path, lengths: dict[str, int], *, views: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """What `digit tokenize` would write: `lengths` are the codes of a picture, by kind."""
    there = check_writable(out)
    # While the parts are joined they are there twice.
    kinds = {name: len(source) * views * length * 2 for name, length in lengths.items()}
    most, free = 2 * sum(kinds.values()), shutil.disk_usage(there).free
    if most > free:
        say(
            f"digit: {most / GIB:.1f} GiB are needed below {out} and {free / GIB:.1f} are free: make room or "
            "choose another --out"
        )
    if (out / "meta.json").exists():
        state = "is finished: nothing would be done"
    else:
        done = len(list((out / "parts").glob("*.npz")))
        state = f"goes on after {done} parts" if done else "starts anew"
    return {
        "dry_run": True,
        "settings": settings,
        "inputs": _describe(source),
        "state": state,
        "parts": -(-len(source) // PART),
        "processes": world_size(),
        "codes_gib": {name: size / GIB for name, size in kinds.items()},
        "disk": {"most_gib": most / GIB, "free_gib": free / GIB, "fits": most <= free},
    }


def plan_codebook(
    source: ImageSource,
    out: Path,
    *,
    clusters: int,
    per_cluster: int,
    vectors_of_a_picture: int,
    width: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What `digit fit` would hold: the sample in memory, and on the device where there is room."""
    check_writable(out)
    vectors = len(source) * vectors_of_a_picture
    kept = min(vectors, clusters * per_cluster)
    # Each process has room for the whole sample while it collects, and its share afterwards.
    sample = clusters * per_cluster * width * 4
    return {
        "dry_run": True,
        "settings": settings,
        "inputs": _describe(source),
        "vectors": {"of_all_pictures": vectors, "kept": kept, "width": width},
        "processes": world_size(),
        "memory_gib": {
            "sample_of_each_process": sample / GIB,
            "sample_in_k_means": kept * width * 4 / world_size() / GIB,
            "its_float16_form_on_a_gpu": kept * (2 * width + 12) / world_size() / GIB,
            "centroids_and_sums": clusters * width * (4 + 8) / GIB,
        },
    }


def _describe(source: ImageSource) -> dict[str, Any]:
    ignored: Sequence[tuple[str, str]] = source.ignored
    return {
        "path": str(source.path),
        "kind": source.kind,
        "pictures": len(source),
        "classes": len(source.classes),
        "ignored": len(ignored),
    }

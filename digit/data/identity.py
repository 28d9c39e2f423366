"""Which pictures, which codes: what a command began with, so that it never goes on with others."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from digit.data.codes import Codes
from digit.data.decode import BrokenImage
from digit.data.images import ImageSource, open_images
from digit.distributed import on_main
from digit.files import sha256_file

READ = 2**30  # bytes of pictures that are read to tell a set from another, at most
AT_ONCE = 4096  # pictures whose digests wait for their turn


def of_images(source: ImageSource) -> dict[str, Any]:
    """Number, classes and sha256 of a set: names, labels, sizes, and the bytes of the files.

    Equal for a folder and a zip of it. Of more than a GiB of pictures those are read that lie evenly spread
    over the set and are a GiB together; of all others name and size count.
    """
    return on_main(lambda: _of_images(source))


def _of_images(source: ImageSource) -> dict[str, Any]:
    total, count = sum(max(0, size) for size in source.sizes()), len(source)
    read = count if total <= READ else max(1, count * READ // total)
    digest = hashlib.sha256(source.fingerprint.encode())

    def of(place: np.int64) -> bytes:
        try:
            return hashlib.sha256(source.read(int(place))).digest()
        except BrokenImage:
            return b"broken"

    places = iter(np.linspace(0, count - 1, read).astype(np.int64))
    with ThreadPoolExecutor(8) as pool:
        while part := list(islice(places, AT_ONCE)):
            for each in pool.map(of, part):
                digest.update(each)
    return {"pictures": count, "classes": source.classes, "content": digest.hexdigest()}


def of_set(path: str | Path | None, *, under: str | None = None) -> str | None:
    """The sha256 of a set of pictures by its path, or of an .npz; None where none is given."""
    if path is None:
        return None
    if Path(path).suffix == ".npz":
        return on_main(lambda: sha256_file(path))
    return of_images(open_images(path, under=under))["content"]


def of_codes(codes: Codes, *arrays: str, labels: bool) -> dict[str, Any]:
    """Who made these arrays of a tokenised set, and the sha256 of each; with its classes if `labels`."""
    files, names = codes.meta["files"], [f"{array}.npy" for array in arrays]
    told: dict[str, Any] = {**codes.lineage(*arrays), "pictures": len(codes)}
    if labels and codes.labels is not None:
        told["classes"] = codes.classes
        names.append("labels.npy")
    return told | {name: files[name] for name in names}


def of_folder(path: Path | None) -> str | None:
    """One sha256 of all arrays and labels of a tokenised set; None where none is given."""
    if path is None:
        return None
    meta = Codes(path, verify=False).meta
    return hashlib.sha256(json.dumps([meta["files"], meta["classes"]], sort_keys=True).encode()).hexdigest()

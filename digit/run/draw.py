"""seeds -> pictures on disk, batch by batch, shared out to the processes; what is drawn is not drawn again.

A batch whose pictures are written leaves a list of them in `.drawn/`, with their checksums, under a name that
is made of all that decides them. The same command finds the lists and draws the rest.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from digit.distributed import gather, on_main, rank, wait, world_size
from digit.errors import DigitError
from digit.files import atomic_path, read_json, sha256_file, sweep, write_json_atomic
from digit.pipeline import DigitPipeline, Pictures
from digit.progress import progress, say
from digit.weights.artifact import version

LISTS = ".drawn"  # the folder of the batches' lists, in that of the pictures


def draw(
    pipeline: DigitPipeline,
    batches: Sequence[list[int]],
    out: Path,
    *,
    labels: list[int] | None,
    settings: dict[str, Any],
    codes: bool,
    made_with: dict[str, Any],
) -> list[str]:
    """Draw the pictures of each batch of seeds into `out`; the names of the batches for `read_drawn`.

    Of several processes each draws some of the batches, and all return when all are drawn.

    Args:
        pipeline: the model.
        batches: seeds drawn at once.
        out: the folder, which exists and is this command's.
        labels: a class for each seed of all batches.
        settings: of the pipeline's call.
        codes: also list the codes.
        made_with: what identifies the model.
    """
    start, tasks = 0, {}
    device = pipeline.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for number, seeds in enumerate(batches):
        own = labels and labels[start : start + len(seeds)]
        start += len(seeds)
        made_of = [made_with, settings, seeds, own, codes, where, version(), torch.__version__]
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        tasks[f"{number:06d}-{key[:16]}"] = (seeds, own)
    on_main(lambda: sweep(out) + sweep(out / LISTS))
    share = [name for name in list(tasks)[rank() :: world_size()] if not _is_drawn(out, name)]
    absent = sorted(name for names in gather(share) for name in names)
    if len(absent) < len(tasks):
        kept = sum(len(seeds) for name, (seeds, _) in tasks.items() if name not in absent)
        say(f"{kept} pictures are kept from before: they were drawn by this very command")
    mine, begun = absent[rank() :: world_size()], False
    with progress("sample", pipeline.work(sum(len(tasks[name][0]) for name in mine))) as advance:
        for name in mine:
            seeds, own = tasks[name]
            drawn = pipeline(own, seeds=seeds, batch_size=len(seeds), progress=advance, **settings)
            if not begun:
                begun = begin(out)
            rows = _write(drawn, out, pipeline.classes, codes)
            files = {row["file"]: sha256_file(out / row["file"]) for row in rows}
            part = {"settings": drawn.settings, "rows": rows, "files": files}
            write_json_atomic(out / LISTS / f"{name}.json", part, checksum=True)
    if not begun:
        begin(out)
    wait()
    return list(tasks)


def read_drawn(out: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """For each batch its settings and the rows of its pictures."""
    for name in names:
        yield read_json(out / LISTS / f"{name}.json")


def read_pixels(out: Path, rows: Sequence[dict[str, Any]]) -> UInt8[Tensor, "b 3 h w"]:
    """The pictures that the rows list, from their files."""

    def pixels(row: dict[str, Any]) -> np.ndarray:
        with Image.open(out / row["file"]) as image:
            return np.asarray(image)

    with ThreadPoolExecutor(8) as pool:
        return torch.from_numpy(np.stack(list(pool.map(pixels, rows)))).permute(0, 3, 1, 2)


def forget_drawn(out: Path) -> None:
    """Remove the lists of batches, when there is a list of all."""
    for path in (out / LISTS).glob("*.json"):
        path.unlink()
    with contextlib.suppress(OSError):  # it holds something that is not ours
        (out / LISTS).rmdir()


def _is_drawn(out: Path, name: str) -> bool:
    """Whether a batch's list is there and its pictures are those that were written."""
    try:
        part = read_json(out / LISTS / f"{name}.json")
    except DigitError:
        return False
    return all(
        (out / file).is_file() and sha256_file(out / file) == digest for file, digest in part["files"].items()
    )


def begin(out: Path) -> bool:
    """Before the first picture is written, by any process: an older list must not describe a mixture."""
    on_main(lambda: (out / "samples.json").unlink(missing_ok=True))
    return True


def _write(drawn: Pictures, out: Path, classes: list[str], codes: bool) -> list[dict[str, Any]]:
    """Write a batch of pictures; its rows of the list."""
    rows = []
    for i, (seed, image) in enumerate(zip(drawn.seeds, drawn.images, strict=True)):
        name = f"{seed:06d}.png"
        with atomic_path(out / name) as temporary:
            image.save(temporary, "png")
        row: dict[str, Any] = {"file": name, "seed": seed, "label": None}
        if drawn.labels is not None:
            label = drawn.labels[i]
            row |= {"label": label, "class": classes[label] if classes else None}
        if codes:
            row |= {"codes": drawn.codes[i].tolist(), "vq_codes": drawn.vq_codes[i].tolist()}
        rows.append(row)
    return rows

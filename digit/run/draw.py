"""seeds -> pictures on disk, batch by batch, shared out to the processes; what is drawn is not drawn again.

A batch whose pictures are written leaves a list of them in `.drawn/`, with their checksums, under a name that
is made of all that decides them. The same command finds the lists and draws the rest.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from digit.data.decode import BrokenImage, decode
from digit.distributed import gather, is_main, main_first, on_main, rank, wait, world_size
from digit.entries import Text, entries
from digit.errors import DigitError
from digit.evaluation.pictures import npz_writer
from digit.files import atomic_file, clean_up, read_json, sha256_file, write_json_atomic
from digit.nn.sampling import DRAW
from digit.opening import read_file, sha256_of
from digit.pipeline import RENDERERS, DigitPipeline, Pictures, RendererName
from digit.progress import progress, say
from digit.run.device import choose_device
from digit.run.grid import grid
from digit.weights.artifact import version
from digit.weights.model_folder import locate, read_config

LISTS = ".drawn"  # the folder of the batches' lists, in that of the pictures
GRID = 256  # pictures that grid.png shows at most
COLUMNS = 16  # classes that each get a column of it, at most


_TYPES: dict[str, Any] = {  # of a batch's list
    "settings": dict[str, Any],
    "rows": list[dict[str, Any]],
    "files": dict[Text, str],
}
_SETTINGS: dict[str, Any] = {"prior": dict[str, Any], "renderer": RendererName | None}
_ROW: dict[str, Any] = {"file": Text, "seed": int, "label": int | None, "class": Text | None}


def open_model(
    model: str | None,
    *,
    renderer: RendererName | None,
    encodes: bool,
    device: str | None,
    revision: str | None = None,
) -> tuple[DigitPipeline, dict[str, Any]]:
    """A model's parts that drawing needs, and its config.json; the tokenizer only if it `encodes`."""
    with main_first():  # it may have to fetch the model
        folder = locate(model, revision)
    config = read_config(folder)
    there = [part for part in RENDERERS.values() if part in config["parts"]]
    parts = there[:1] if renderer is None else [RENDERERS[renderer]]
    wanted = [*parts, "tokenizer"] if encodes else parts
    if renderer is not None and parts[0] not in there:
        wanted = None  # all parts: the pipeline says which renderers there are
    return DigitPipeline.from_pretrained(folder, device=choose_device(device), parts=wanted), config


def made_of(
    config: dict[str, Any], *, seeds: Sequence[int], labels: Sequence[int] | None, **more: Any
) -> dict[str, Any]:
    """All that decides pictures of the model with this config.json, whatever draws them."""
    numbers = {"seeds": _in_short(seeds), "labels": labels and _in_short(labels)}
    model = {name: config[name] for name in ("parts", "classes", "sampling")}
    return {"model": model, **numbers, **more, "draw": DRAW}


def _in_short(numbers: Sequence[int]) -> str:
    """0-63 where numbers follow on one another, else all of them."""
    first, last = numbers[0], numbers[-1]
    if list(numbers) == list(range(first, last + 1)):
        return f"{first}-{last}"
    return ",".join(map(str, numbers))


def draw(
    pipeline: DigitPipeline,
    seeds: Sequence[int],
    out: Path,
    *,
    labels: Sequence[int] | None,
    settings: dict[str, Any],
    codes: bool,
    batch: int,
    made_with: dict[str, Any],
    turn: int = 0,
    npz: Path | None = None,
) -> dict[str, Any]:
    """Draw a picture per seed into `out`, and grid.png of the first; the settings used and a row per picture.

    Of several processes each draws some of the batches; only the main one gets a result.

    Args:
        pipeline: the model.
        seeds: of the pictures.
        out: the folder, which exists and is this command's.
        labels: their classes, one per seed; None draws without.
        settings: of the pipeline's call.
        codes: also list the codes.
        batch: pictures at once.
        made_with: what identifies the model.
        turn: after how many pictures the classes should begin again, each in its own column of grid.png.
        npz: a file for all pictures as well, as ADM's evaluation reads it.
    """
    tasks = _tasks(pipeline, seeds, labels, batch, [made_with, settings], codes)
    on_main(lambda: clean_up(out / LISTS))
    found = gather(
        [name for name in list(tasks)[rank() :: world_size()] if _is_drawn(out, name, tasks[name][0])]
    )
    kept = {name for names in found for name in names}
    if kept:
        count = sum(len(tasks[name][0]) for name in kept)
        say(f"{count} pictures are kept from before: they were drawn by this very command")
    mine = [name for name in tasks if name not in kept][rank() :: world_size()]
    alone = world_size() == 1
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(
            progress("sample, codes", pipeline.work(sum(len(tasks[name][0]) for name in mine)))
        )
        file = stack.enter_context(npz_writer(npz, len(seeds))) if npz is not None and is_main() else None
        whole = _Whole(out, file)
        for name in tasks if alone else mine:
            if name in kept:
                whole.add(_listed(out, name))
                continue
            part, own = tasks[name]
            how = {"unconditional": own is None, "batch_size": len(part), "progress": advance}
            drawn = pipeline(own, seeds=part, **how, **settings)
            listed = _write(drawn, out, name, pipeline.classes, codes)
            if alone:
                whole.add(listed, drawn.pixels)
        wait()
        if is_main() and not alone:
            for name in tasks:
                whole.add(_listed(out, name))
    if not is_main():
        return {}
    with atomic_file(out / "grid.png") as file:
        above = _columns(whole.rows[:GRID], turn)
        grid(torch.cat(whole.shown), columns=len(above) or None, above=above).save(file, "png")
    return {"settings": whole.settings, "samples": whole.rows}


def finish_drawing(out: Path, content: dict[str, Any]) -> None:
    """Write the list of all pictures, samples.json, in place of the batches' lists."""
    write_json_atomic(out / "samples.json", content)
    for path in (out / LISTS).glob("*.json"):
        path.unlink()
    with contextlib.suppress(OSError):  # there is none, or it holds something that is not ours
        (out / LISTS).rmdir()


def begin(out: Path) -> None:
    """Before a picture is written, by any process: an older list must not describe a mixture."""
    (out / "samples.json").unlink(missing_ok=True)


def write_picture(image: Image.Image, path: Path) -> str:
    """Write a PNG, whole or not at all; the sha256 of its bytes."""
    with atomic_file(path) as file:
        image.save(file, "png")
        return sha256_of(file)


def listed(drawn: Pictures, i: int, classes: Sequence[str], *, codes: bool) -> dict[str, Any]:
    """What the list says of a picture besides its file: seed and class, and the codes if asked for."""
    row: dict[str, Any] = {"seed": drawn.seeds[i], "label": None}
    if drawn.labels is not None:
        label = drawn.labels[i]
        row |= {"label": label, "class": classes[label] if classes else None}
    if codes:
        row["codes"] = drawn.codes[i].tolist()
        if drawn.vq_codes is not None:
            row["vq_codes"] = drawn.vq_codes[i].tolist()
    return row


class _Whole:
    """What is made of all pictures: their rows, the pixels of the first, and a file of all if there is one.

    Batches come in the order of the seeds; pixels that are not at hand are read from the pictures' files.
    """

    def __init__(self, out: Path, file: Callable[..., None] | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.shown: list[UInt8[Tensor, "b 3 h w"]] = []
        self.settings: dict[str, Any] = {}
        self._out, self._file = out, file

    def add(self, part: dict[str, Any], pixels: UInt8[Tensor, "b 3 h w"] | None = None) -> None:
        """A batch's list, and its pixels if they were drawn here."""
        rows, room = part["rows"], max(0, GRID - len(self.rows))
        if self._file is not None or room:
            pixels = _read_pixels(self._out, rows) if pixels is None else pixels
            if self.shown and pixels.shape[1:] != self.shown[0].shape[1:]:
                raise DigitError(
                    f"{self._out / rows[0]['file']} has another size than {self.rows[0]['file']}: remove "
                    "both and repeat"
                )
            if room:
                self.shown.append(pixels[:room].clone())  # a view would keep the whole batch in memory
            if self._file is not None:
                labels = [row["label"] for row in rows]
                self._file(pixels, None if None in labels else labels)
        self.rows += rows
        self.settings = part["settings"]


def _columns(rows: Sequence[dict[str, Any]], turn: int) -> list[str]:
    """The classes over `turn` columns; none where there are too many, or a column would mix classes."""
    if not 0 < turn <= COLUMNS or any(row["label"] != rows[i % turn]["label"] for i, row in enumerate(rows)):
        return []
    return [str(row.get("class") or row["label"]) for row in rows[:turn] if row["label"] is not None]


def _tasks(
    pipeline: DigitPipeline,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    batch: int,
    made_of: list[dict[str, Any]],
    codes: bool,
) -> dict[str, tuple[list[int], list[int] | None]]:
    """Seeds and labels of each batch, in order, by a name that is made of all that decides the pictures."""
    device = pipeline.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    tasks = {}
    for number, start in enumerate(range(0, len(seeds), batch)):
        part = list(seeds[start : start + batch])
        own = None if labels is None else list(labels[start : start + batch])
        key = json.dumps([*made_of, part, own, codes, where, DRAW, version(), torch.__version__])
        tasks[f"{number:06d}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"] = (part, own)
    return tasks


def _listed(out: Path, name: str) -> dict[str, Any]:
    """Settings, rows and checksums of a batch whose pictures are written; DigitError if there is no list."""
    path = out / LISTS / f"{name}.json"
    how: Any = {"where": path, "remedy": "delete it and repeat the command"}
    part = entries(read_json(path), _TYPES, **how)
    drew = entries(part["settings"], _SETTINGS, **how).get("renderer")
    entries(part["settings"], {drew: dict[str, Any]} if drew else {}, **how)
    absent: dict[str, Any] = dict.fromkeys(_ROW)
    part["rows"] = [absent | entries(row, _ROW, **how) for row in part["rows"]]
    for row in part["rows"]:
        if Path(row["file"]).name != row["file"] or row["file"] not in part["files"]:
            raise DigitError(f"{path} lists {row['file']}, which it did not write: delete it and repeat")
    return part


def _read_pixels(out: Path, rows: Sequence[dict[str, Any]]) -> UInt8[Tensor, "b 3 h w"]:
    """The pictures that the rows list, from their files."""

    def pixels(row: dict[str, Any]) -> np.ndarray:
        try:
            return np.asarray(decode(read_file(out / row["file"], links=False)))
        except BrokenImage as error:
            raise DigitError(
                f"{out / row['file']} is no picture that digit drew ({error}): remove it and repeat"
            ) from None

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(pixels, rows))
    for row, each in zip(rows, found, strict=True):
        if each.shape != found[0].shape:
            raise DigitError(
                f"{out / row['file']} has another size than {rows[0]['file']}: remove both and repeat"
            )
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def _is_drawn(out: Path, name: str, seeds: Sequence[int]) -> bool:
    """Whether a batch's list of these seeds is there and its pictures are those that were written."""
    try:
        part = _listed(out, name)
    except DigitError:
        return False
    return [row["seed"] for row in part["rows"]] == seeds and all(
        (out / file).is_file() and sha256_file(out / file) == digest for file, digest in part["files"].items()
    )


def _write(drawn: Pictures, out: Path, name: str, classes: Sequence[str], codes: bool) -> dict[str, Any]:
    """Write a batch of pictures, and its list when they are there; the list."""
    begin(out)
    rows, files = [], {}
    for i, image in enumerate(drawn.images):
        file = f"{drawn.seeds[i]:06d}.png"
        files[file] = write_picture(image, out / file)
        rows.append({"file": file, **listed(drawn, i, classes, codes=codes)})
    part = {"settings": drawn.settings, "rows": rows, "files": files}
    write_json_atomic(out / LISTS / f"{name}.json", part, checksum=True)
    return part

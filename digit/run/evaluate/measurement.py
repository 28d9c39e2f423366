"""What measurements share: pictures, models and networks to measure, the record, and where it is kept."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.data.identity import of_folder, of_set
from digit.data.images import ImageSource, open_images
from digit.data.loader import Report, stream
from digit.data.samples import listed_samples
from digit.errors import DigitError, spoken
from digit.evaluation.networks import Network, open_network
from digit.evaluation.pictures import Pictures, open_npz
from digit.evaluation.result import read_result, result, write_result
from digit.files import check_writable, make_folder
from digit.picture_tokenizer import PictureTokenizer
from digit.pipeline import DigitPipeline
from digit.printing import listed, put
from digit.progress import progress, say
from digit.run.claim import RESULTS, contents, identity_of, nothing_left
from digit.run.own_code import id_of, open_own
from digit.run.pictures import open_told
from digit.run.table import saved
from digit.weights.artifact import artifact_of, load
from digit.weights.model_folder import PARTS

PICTURES = ("images", "test_images", "samples", "reference")
# Options that decide no value.
UNDECIDING = ("out", "batch", "device", "few", "paper", "cache", "memory_gb")
PUBLISHED = 50_000  # pictures behind published distances


def result_file(out: Path | None, name: str) -> Path | None:
    """The JSON file of a result: `out` itself if it ends in .json, else NAME.json in that folder, which is
    made; None without `out`.

    Raises:
        DigitError: the folder holds something else than results, or a file beside the result is somebody's.
    """
    if out is None:
        return None
    written = out if out.suffix == ".json" else out / f"{name}.json"
    there = contents(out) if written != out else None
    if there not in (None, RESULTS):
        raise DigitError(f"{out} already holds {there}: choose another --out")
    check_writable(written.parent)
    beside = [written.with_suffix(".png"), *sorted(written.parent.glob(f"{written.stem}-*"))]
    taken = next((file for file in beside if file.exists() and not written.exists()), None)
    if taken is not None:
        raise DigitError(f"{taken} is there already, which is no result's: choose another --out")
    make_folder(written.parent)
    return written


def asked(out: Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a measurement is made of by its verb's arguments: settings, the identity of what they name.

    Nothing is read where no result is kept.
    """
    if out is None:
        return {}
    chosen = {name: value for name, value in given.items() if name not in UNDECIDING}
    return {name: _known(value, pictures=name in PICTURES) for name, value in chosen.items()}


def _known(value: Any, *, pictures: bool) -> Any:
    """A setting as it is; of a path what it holds."""
    if isinstance(value, tuple | list):
        return [_known(each, pictures=pictures) for each in value]
    if not isinstance(value, str | Path):
        return value
    if pictures and value is not None:
        return of_set(value)
    place = Path(value if isinstance(value, Path) else re.split("[=:]", value)[-1])
    if not place.exists():
        return str(value)
    held = of_folder(place) if (place / "meta.json").is_file() else identity_of(place)
    return held if isinstance(value, Path) else f"{value} {held}"


def measured(written: Path | None, made_of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result that this very command left; DigitError if the file is of another measurement."""
    if written is None or not written.exists():
        return None
    before = read_result(written)
    if before.pop("made_of", None) != json.loads(json.dumps(made_of, default=str)):
        raise DigitError(
            f"{written} already holds a result of other models, pictures, settings or networks: choose "
            "another --out"
        )
    nothing_left(written)
    return before


def of_classes(images: str, under: str | None, classes: Sequence[str | int], per_class: int) -> ImageSource:
    """The first `per_class` pictures of each class named, or of all, which a line says; DigitError without
    such labels."""
    source = open_images(images, under=under)
    if source.labels is None:
        raise DigitError(f"the pictures of {images} have no labels: put them into class folders")
    places = {name: i for i, name in enumerate(source.classes)} | {i: i for i in range(len(source.classes))}
    for name in classes:
        if name not in places:
            raise DigitError(f"{images} has no class {name!r}: it has {listed(source.classes)}")
    wanted = [places[name] for name in classes] or range(len(source.classes))
    chosen = [np.flatnonzero(source.labels == label)[:per_class] for label in wanted]
    some = source.select(np.sort(np.concatenate(chosen)))
    say(some.read_as)
    return some


def generated(path: str) -> ImageSource | Pictures:
    """The pictures that samples.json lists (the grid is none of them), with their classes, or those of a
    path; a line says which."""
    folder = Path(path)
    if folder.suffix == ".npz":
        found = open_npz(folder)
        say(read_as(found))
        return found
    if not (folder / "samples.json").is_file():
        return open_told(path)
    rows = listed_samples(folder)
    if rows is None:
        raise DigitError(f"{folder / 'samples.json'} is no list of `digit sample`: take it out of the folder")
    images = open_images(folder)
    places = {name: place for place, name in enumerate(images.names)}
    missing = [row["file"] for row in rows if row["file"] not in places]
    if missing or not rows:
        absent = folder / missing[0] if missing else folder / "samples.json"
        raise DigitError(f"{absent} is named in samples.json but missing: draw the pictures again")
    names, labels = sorted({row["class"] for row in rows if row.get("class")}), None
    if names and all(row.get("class") for row in rows):
        labels = np.array([names.index(row["class"]) for row in rows])
    listed = images.select([places[row["file"]] for row in rows])
    others = [each for each in images.ignored if each[0].endswith(".png")]
    told = replace(listed, labels=labels, classes=names if labels is not None else [], ignored=others)
    told = replace(told, notes=["samples.json names none for some"] if labels is None else [])
    say(told.read_as)
    return told


def read_as(pictures: ImageSource | Pictures) -> str:
    """The line that says what pictures are read as; of an npz whether it has labels, which have no names."""
    if isinstance(pictures, ImageSource):
        return pictures.read_as
    if not pictures.n:
        return f"{pictures.name}: statistics, no pictures"
    labels = "numbers of classes without names" if pictures.labels is not None else "no classes"
    return f"{pictures.name}: {pictures.n:,} pictures, {labels}"


@contextmanager
def reading(
    title: str, source: ImageSource, side: int, device: torch.device, batch: int, *, times: int = 1
) -> Iterator[tuple[Callable[[], Iterator[Float[Tensor, "_ 3 h w"]]], list[int]]]:
    """Yield what reads batches of the pictures, in [0, 1] on `device`, `times` times, and the places of those
    that could be read; at the end says which could not."""
    report, seen = Report(), list[int]()

    def pixels() -> Iterator[Float[Tensor, "_ 3 h w"]]:
        seen.clear()
        for index, views in stream(source, side, batch_size=batch, report=report):
            seen.extend(index.tolist())
            yield views[:, 0].to(device).float() / 255
            advance(len(index))

    with progress(title, times * len(source)) as advance:
        yield pixels, seen
    if report.skipped:
        say(report.summary())


def labels_at(source: ImageSource, places: Sequence[int]) -> Int[Tensor, " n"]:
    """The labels of the pictures at these places."""
    assert source.labels is not None
    return torch.from_numpy(source.labels[list(places)])


def unlike_names(paths: Sequence[Path | PictureTokenizer], option: str) -> list[str]:
    """The names of folders, or whole paths where two are alike, of objects those of their classes; DigitError
    where one is given twice."""
    if any(one is other or one == other for one, other in itertools.combinations(paths, 2)):
        raise DigitError(f"{option} names a folder twice: give each once")
    names = [path.resolve().name if isinstance(path, Path) else type(path).__name__ for path in paths]
    if len(set(names)) == len(names):
        return names
    return [
        str(path) if isinstance(path, Path) else f"{name} {i}"
        for i, (name, path) in enumerate(zip(names, paths, strict=True), 1)
    ]


def open_networks(specs: Sequence[str], weights: Path | None, device: torch.device) -> list[Network]:
    """The networks that `specs` name; `weights` is the file of FID's InceptionV3."""
    return [open_network(spec, inception_weights=weights, device=device) for spec in specs]


def open_one(path: Path | PictureTokenizer, kinds: Sequence[str], device: torch.device) -> Any:
    """An artifact of one of `kinds`, such as tokenizer or vqgan; DigitError if it is of another.

    Where a tokenizer may be, it may be somebody's own.
    """
    own = open_own(path, device) if "tokenizer" in kinds else None
    if own is not None:
        return own
    module: Any = load(str(path), device=device)
    kind = artifact_of(module)["kind"]
    if kind not in kinds:
        raise DigitError(f"{path} is a {kind}, this takes {' or '.join(kinds)}: give another folder")
    return module


def ids_of(pipeline: DigitPipeline) -> dict[str, str]:
    """The id of each of a loaded model's stages."""
    stages = {name: getattr(pipeline, name) for name in PARTS}
    return {name: artifact_of(stage)["id"] for name, stage in stages.items() if stage is not None}


def of_networks(networks: Iterable[Network]) -> list[dict[str, str]]:
    """Networks as a record names them."""
    return [{"name": network.name, "sha256": network.sha256} for network in networks]


def with_ids(modules: Mapping[str, Any]) -> list[dict[str, str]]:
    """Artifacts by name as a record names them."""
    return [{"name": name, "id": id_of(module)} for name, module in modules.items()]


def device_name(device: torch.device) -> str:
    """The GPU's own name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def record(
    measurement: str, values: Iterable[tuple[str, float]], device: torch.device, **told: Any
) -> dict[str, Any]:
    """A result as `evaluation.result.result` makes it, with the name of the device."""
    return result(measurement, values, device=device_name(device), **told)


def by_name(rows: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """Values of several things as one list: "vqgan: PSNR" and so on."""
    return [(f"{name}: {what}", number) for name, row in rows.items() for what, number in row.items()]


def earlier(
    written: Path | None, measurement: str, alike: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    """The result of an earlier call with the same --out, if there is one; DigitError if it is not `alike`."""
    if written is None or not written.exists():
        return None
    before = read_result(written)
    if before["measurement"] != measurement or not alike(before):
        raise DigitError(
            f"{written} holds results of other models, pictures, settings or networks: choose another --out"
        )
    return before


def keep(
    written: Path | None,
    value: Mapping[str, Any],
    *files: Path,
    made_of: Mapping[str, Any] | None = None,
    plot: Callable[[Path], Any] | None = None,
    also: str = "",
    show: Callable[[], None] | None = None,
) -> None:
    """Write a result and its plot beside it, and name them and `files`, which were written before.

    `show` prints the tables when all is written, and what the result warns of follows: what was measured
    does not hang on who reads the output.
    Without a file say that nothing is kept; `also` names what else --out would have kept.
    """
    if written is not None:
        about = {} if made_of is None else {"made_of": json.loads(json.dumps(made_of, default=str))}
        write_result(written, {**value, **about})
        if plot is not None:
            files = (written.with_suffix(".png"), *files)
            plot(files[0])
    if show is not None:
        show()
    for warning in value.get("warnings", ()):
        put(warning)
    if written is None:
        put(spoken(f"not kept: --out FOLDER keeps the full record as JSON{also}"))
    else:
        saved(written, *files)


def caution(value: dict[str, Any], count: int) -> None:
    """Note in a result that distances of `count` pictures cannot stand beside published ones."""
    if count < PUBLISHED:
        value["warnings"] = [
            f"{count:,} pictures: not comparable with distances of {PUBLISHED:,}, which are smaller for the "
            "same quality"
        ]


@contextmanager
def picture_count(title: str, total: int | None) -> Iterator[Callable[[int, int | None], None]]:
    """Yield `tell(done, total)`, as `measure` calls it; a count that falls is that of the next set."""
    with progress(title, total) as advance:
        done = 0

        def tell(now: int, _: int | None) -> None:
            nonlocal done
            advance(now - done if now > done else now)
            done = now

        yield tell

"""What measurements share: pictures, models and networks to measure, the record, and where it is kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from digit.data.images import ImageSource, open_images
from digit.data.loader import stream
from digit.errors import DigitError
from digit.evaluation.networks import Network, open_network
from digit.evaluation.pictures import Pictures, of_images
from digit.evaluation.result import read_result, result, write_result
from digit.files import atomic_path, make_folder, read_json
from digit.pipeline import DigitPipeline
from digit.progress import progress
from digit.run.grid import grid
from digit.run.table import saved
from digit.weights.artifact import artifact_of, load
from digit.weights.model_folder import PARTS

PUBLISHED = 50_000  # pictures behind published distances


def result_file(out: Path | None, name: str) -> Path | None:
    """The JSON file of a result: `out` itself if it ends in .json, else NAME.json in that folder, which is
    made; None without `out`."""
    if out is None:
        return None
    written = out if out.suffix == ".json" else out / f"{name}.json"
    make_folder(written.parent)
    return written


def of_classes(images: str, under: str | None, classes: Sequence[str], per_class: int) -> ImageSource:
    """The pictures of the classes named, the first `per_class` of each; of all classes if none is named.

    Raises:
        DigitError: pictures without labels, or a class that they have not.
    """
    source = open_images(images, under=under)
    if source.labels is None:
        raise DigitError(f"the pictures of {images} have no labels: put them into class folders")
    for name in classes:
        if name not in source.classes:
            raise DigitError(f"{images} has no class {name!r}: it has {', '.join(source.classes[:12])}")
    wanted = [source.classes.index(name) for name in classes] or range(len(source.classes))
    chosen = [np.flatnonzero(source.labels == label)[:per_class] for label in wanted]
    return source.select(np.sort(np.concatenate(chosen)))


def labels_at(source: ImageSource, places: Sequence[int]) -> Int[Tensor, " n"]:
    """The labels of the pictures at these places."""
    assert source.labels is not None
    return torch.from_numpy(source.labels[list(places)])


def generated(path: str, *, batch: int, size: int | None) -> Pictures | str:
    """The pictures that samples.json lists (the grid is none of them), with their classes; else the path."""
    folder = Path(path)
    if not (folder / "samples.json").is_file():
        return path
    rows = read_json(folder / "samples.json")["samples"]
    images = open_images(folder)
    places = {name: place for place, name in enumerate(images.names)}
    missing = [row["file"] for row in rows if row["file"] not in places]
    if missing or not rows:
        absent = folder / missing[0] if missing else folder / "samples.json"
        raise DigitError(f"{absent} is named in samples.json but missing: draw the pictures again")
    names = sorted({row["class"] for row in rows if row.get("class")})
    labels = None
    if names and all(row.get("class") for row in rows):
        labels = torch.tensor([names.index(row["class"]) for row in rows])
    listed = images.select([places[row["file"]] for row in rows])
    return replace(of_images(listed, size=size, batch_size=batch), labels=labels, classes=tuple(names))


def unlike_names(paths: Sequence[Path], option: str) -> list[str]:
    """The names of folders, or whole paths where two are alike.

    Raises:
        DigitError: naming `option`, where a folder is given twice.
    """
    if len(set(paths)) != len(paths):
        raise DigitError(f"{option} names a folder twice: give each once")
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def open_networks(specs: Sequence[str], weights: Path | None, device: torch.device) -> list[Network]:
    """The networks that `specs` name; `weights` is the file of FID's InceptionV3."""
    return [open_network(spec, inception_weights=weights, device=device) for spec in specs]


def open_models(models: Sequence[str], device: torch.device) -> dict[str, DigitPipeline]:
    """Whole models by the names of their folders."""
    if not models:
        raise DigitError("no model: give at least one folder, bundled model or owner/name on the hub")
    names = unlike_names([Path(model) for model in models], "the list of models")
    pipelines = [DigitPipeline.from_pretrained(model, device=device) for model in models]
    return dict(zip(names, pipelines, strict=True))


def open_one(path: Path, kinds: Sequence[str], device: torch.device) -> Any:
    """An artifact of one of `kinds`, such as tokenizer or vqgan.

    Raises:
        DigitError: it is of another kind.
    """
    module: Any = load(path, device=device)
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


def with_ids(names: Sequence[str], modules: Sequence[Any]) -> list[dict[str, str]]:
    """Artifacts as a record names them."""
    return [
        {"name": name, "id": artifact_of(module)["id"]} for name, module in zip(names, modules, strict=True)
    ]


def device_name(device: torch.device) -> str:
    """The GPU's own name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def by_name(rows: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """Values of several things as one list: "vqgan: PSNR" and so on."""
    return [(f"{name}: {what}", number) for name, row in rows.items() for what, number in row.items()]


def record(
    measurement: str, values: Iterable[tuple[str, float]], device: torch.device, **told: Any
) -> dict[str, Any]:
    """A result as `evaluation.result.result` makes it, with the name of the device."""
    return result(measurement, values, device=device_name(device), **told)


def earlier(
    written: Path | None, measurement: str, alike: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    """The result of an earlier call with the same --out; None if there is none.

    Raises:
        DigitError: it is of something else, as `alike` says.
    """
    if written is None or not written.exists():
        return None
    before = read_result(written)
    if before["measurement"] != measurement or not alike(before):
        raise DigitError(
            f"{written} holds results of other models, pictures, settings or networks: choose another --out"
        )
    return before


def keep(written: Path | None, value: Mapping[str, Any], *plots: Path, also: str = "") -> None:
    """Write a result and name the files written; without a file say that nothing is kept.

    `plots` were written before; `also` names what else --out would have kept.
    """
    if written is None:
        print(f"not kept: --out FOLDER keeps the full record as JSON{also}")
        return
    write_result(written, value)
    saved(written, *plots)


def save_rows(rows: Mapping[str, UInt8[Tensor, "n 3 h w"]], path: Path) -> None:
    """Write a PNG with a row of pictures for each name."""
    columns = len(next(iter(rows.values())))
    with atomic_path(path) as temporary:
        image = grid(torch.cat(list(rows.values())), columns=columns, beside=list(rows))
        image.save(temporary, "png")


def caution(count: int) -> None:
    """A line where distances of `count` pictures cannot stand beside published ones."""
    if count < PUBLISHED:
        print(
            f"{count:,} pictures: not comparable with distances of {PUBLISHED:,}, which are smaller for the "
            "same quality"
        )


def pixels_of(
    source: ImageSource,
    side: int,
    device: torch.device,
    advance: Callable[[int], None],
    *,
    seen: list[int] | None = None,
    **how: Any,
) -> Iterator[Float[Tensor, "_ 3 h w"]]:
    """Batches of the pictures on `device`, in [0, 1]; `seen` gets their numbers, broken ones left out.

    `how` are options of the loader's `stream`.
    """
    for index, pixels in stream(source, side, **how):
        if seen is not None:
            seen += index.tolist()
        yield pixels[:, 0].to(device).float() / 255
        advance(len(index))


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

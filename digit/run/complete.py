"""`digit sample --prefix-from`: pictures' first codes -> completions by the prior, a strip a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from digit.data.images import ImageSource, open_images
from digit.data.listing import SUFFIXES
from digit.data.loader import stream
from digit.errors import DigitError
from digit.files import atomic_path
from digit.pipeline import DigitPipeline
from digit.run.grid import grid
from digit.run.progress import progress, say

STRIP = 14  # completions that a strip shows at most
TILES = 256  # pictures that grid.png shows at most


def complete(
    pipeline: DigitPipeline,
    pictures: str | Path,
    out: Path,
    *,
    known: int,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    by_folder: bool,
    settings: dict[str, Any],
    codes: bool,
    batch: int,
) -> dict[str, Any]:
    """Write a completion a picture and seed, a strip a picture and grid.png; the content of samples.json.

    A strip shows the original, the picture rendered from all of its codes, and the completions. Memory holds
    one batch.

    Args:
        pipeline: the model.
        pictures: a picture, or a folder, zip or tar of them.
        out: the folder, which exists.
        known: how many codes of each picture are kept.
        seeds: one a completion, the same for every picture.
        labels: classes of the pictures, in turn.
        by_folder: without labels, use the folders' names where the model knows them as classes.
        settings: of the pipeline's call.
        codes: also list the codes.
        batch: pictures at once.

    Raises:
        DigitError: a number of codes that pictures of this model have not, no tokenizer, a broken picture.
    """
    length = pipeline.prior.config.length
    if not 0 <= known <= length:
        raise DigitError(f"--prefix {known}: pictures of this model have {length} codes, give 0 to {length}")
    source = open_pictures_or_one(pictures)
    if labels is None and by_folder:
        labels = folder_labels(pipeline, source)
    rows: list[dict[str, Any]] = []
    strips: list[dict[str, str]] = []
    shown: list[torch.Tensor] = []
    drawn: Any = None
    units = len(source) * (pipeline.work(len(seeds), prefix=known) + pipeline.work(1, prefix=length))
    chunks = stream(
        source, pipeline.vqgan.config.image_size, batch_size=max(1, batch // len(seeds)), strict=True
    )
    with progress("sample", units) as advance:
        for numbers, views in chunks:
            originals, count = views[:, 0], len(numbers)
            own = None if labels is None else [labels[i % len(labels)] for i in numbers.tolist()]
            how: dict[str, Any] = {"batch_size": batch, "progress": advance, **settings}
            prefix = pipeline.encode(originals.float() / 255)
            again = pipeline(own, seeds=[seeds[0]] * count, prefix=prefix, **how)
            if not rows:
                (out / "samples.json").unlink(missing_ok=True)  # an older list must not describe a mixture
            tiles = [originals.unsqueeze(1), again.pixels.unsqueeze(1)]
            for start in range(0, len(seeds), batch):
                part = list(seeds[start : start + batch])
                drawn = pipeline(
                    own and [label for label in own for _ in part],
                    seeds=part * count,
                    prefix=prefix[:, :known].repeat_interleave(len(part), 0),
                    **how,
                )
                for i, image in enumerate(drawn.images):
                    number, seed = int(numbers[i // len(part)]), drawn.seeds[i]
                    row = {"file": f"{number:06d}-{seed:06d}.png", "seed": seed, "from": source.names[number]}
                    _save(image, out / row["file"])
                    rows.append({**row, **_label(pipeline, drawn.labels, i)})
                    if codes:
                        rows[-1] |= {"codes": drawn.codes[i].tolist(), "vq_codes": drawn.vq_codes[i].tolist()}
                tiles.append(drawn.pixels.unflatten(0, (count, len(part)))[:, : max(0, STRIP - start)])
            for number, strip in zip(numbers.tolist(), torch.cat(tiles, 1), strict=True):
                name = f"strip-{number:06d}.png"
                _save(grid(strip, columns=len(strip)), out / name)
                strips.append({"file": name, "from": source.names[number]})
                if (1 + len(shown)) * len(strip) <= TILES:
                    shown.append(strip)
    columns = len(shown[0])
    _save(grid(torch.cat(shown), columns=columns), out / "grid.png")
    return {"settings": drawn.settings, "pictures": str(pictures), "samples": rows, "strips": strips}


def open_pictures_or_one(path: str | Path) -> ImageSource:
    """One picture, or what `open_images` opens."""
    path = Path(path)
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        return open_images(path)

    def sizes() -> list[int]:
        return [path.stat().st_size]

    return ImageSource(path.parent, "picture", [path.name], None, [], [], sizes, lambda _: path.read_bytes())


def folder_labels(pipeline: DigitPipeline, source: ImageSource) -> list[int] | None:
    """The class of each picture for the pipeline's prior; None where prior or folders know none."""
    count = pipeline.prior.config.classes
    if not count or source.labels is None:
        return None
    names = pipeline.classes or [str(i) for i in range(count)]
    unknown = next((name for name in source.classes if name not in names), None)
    if unknown is not None:
        say(f"{unknown}, a folder of {source.path}, is no class of the model: completing without classes")
        return None
    places = [names.index(name) for name in source.classes]
    return [places[label] for label in source.labels.tolist()]


def _label(pipeline: DigitPipeline, labels: list[int] | None, i: int) -> dict[str, Any]:
    if labels is None:
        return {"label": None}
    return {"label": labels[i], "class": pipeline.classes[labels[i]] if pipeline.classes else None}


def _save(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary, "png")

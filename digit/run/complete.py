"""`digit sample --prefix-from`: pictures' first codes -> completions by the prior, a strip a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from digit.data.images import ImageSource, open_images
from digit.data.loader import in_blocks, stream
from digit.distributed import gather, gather_rows, is_main, rank, world_size
from digit.errors import DigitError
from digit.files import atomic_path
from digit.pipeline import DigitPipeline
from digit.progress import progress, say
from digit.run.draw import begin
from digit.run.grid import grid

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
    one batch. Of several processes each takes some of the batches of pictures.

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
    source = open_images(pictures)
    if labels is None and by_folder:
        labels = folder_labels(pipeline, source)
    side, settings_used = pipeline.vqgan.config.image_size, None
    columns = 2 + min(len(seeds), STRIP)  # tiles of a strip
    shown = [torch.zeros(0, columns, 3, side, side, dtype=torch.uint8)]
    written: list[list[Any]] = []  # of each batch of pictures: the first, rows and strips
    at_once = max(1, batch // len(seeds))
    blocks = in_blocks(len(source), at_once)[rank() :: world_size()]
    units = pipeline.work(len(seeds), prefix=known) + pipeline.work(1, prefix=length)
    batches = stream(source, side, batch_size=at_once, blocks=blocks, strict=True)
    with progress("sample", units * sum(map(len, blocks))) as advance:
        for numbers, views in batches:
            originals, count = views[:, 0], len(numbers)
            own = None if labels is None else [labels[i % len(labels)] for i in numbers.tolist()]
            how: dict[str, Any] = {"batch_size": batch, "progress": advance, **settings}
            prefix = pipeline.encode(originals.float() / 255)
            again = pipeline(own, seeds=[seeds[0]] * count, prefix=prefix, **how)
            if not written:
                begin(out)
            rows: list[dict[str, Any]] = []
            strips: list[dict[str, str]] = []
            tiles = [originals.unsqueeze(1), again.pixels.unsqueeze(1)]
            for start in range(0, len(seeds), batch):
                part = list(seeds[start : start + batch])
                drawn = pipeline(
                    own and [label for label in own for _ in part],
                    seeds=part * count,
                    prefix=prefix[:, :known].repeat_interleave(len(part), 0),
                    **how,
                )
                settings_used = drawn.settings
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
                _save(grid(strip, columns=columns), out / name)
                strips.append({"file": name, "from": source.names[number]})
                if number < TILES // columns:
                    shown.append(strip[None])
            written.append([int(numbers[0]), rows, strips])
    if not written:
        begin(out)
    places = [number for block in blocks for number in block if number < TILES // columns]
    order = torch.tensor([number for share in gather(places) for number in share]).argsort()
    top = torch.cat(gather_rows(torch.cat(shown)))[order]
    if is_main():
        _save(grid(top.flatten(0, 1), columns=columns), out / "grid.png")
    chunks = sorted(chunk for share in gather(written) for chunk in share)  # by their first picture
    return {
        "settings": next(used for used in gather(settings_used) if used is not None),
        "pictures": str(pictures),
        "samples": [row for _, rows, _ in chunks for row in rows],
        "strips": [strip for _, _, strips in chunks for strip in strips],
    }


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

"""Pictures' first codes -> completions by the prior, one strip per picture (`digit sample --prefix-from`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from digit.data.classes import plain
from digit.data.images import ImageSource
from digit.data.loader import in_blocks, stream
from digit.distributed import gather, gather_rows, is_main, rank, world_size
from digit.pipeline import DigitPipeline
from digit.progress import progress, say
from digit.request import in_turn
from digit.run.draw import GRID, begin, listed, write_picture
from digit.run.grid import grid
from digit.run.pictures import open_told

STRIP = 14  # completions that a strip shows at most


class _Completed(NamedTuple):
    """What was made of a batch of pictures."""

    rows: list[dict[str, Any]]  # one per completion
    strips: UInt8[Tensor, "b columns 3 h w"]  # original, all codes, completions
    settings: dict[str, Any]


def complete(
    pipeline: DigitPipeline,
    pictures: str | Path,
    out: Path,
    *,
    known: int,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    unconditional: bool,
    settings: dict[str, Any],
    codes: bool,
    batch: int,
) -> dict[str, Any]:
    """Write one completion per (picture, seed), one strip per picture and grid.png; what samples.json says.

    A strip shows the original, the picture rendered from all of its codes, and the completions. Memory holds
    one batch. Of several processes each takes some of the batches of pictures.

    Args:
        pipeline: the model.
        pictures: a picture, or a folder, zip or tar of them.
        out: the folder, which exists.
        known: how many codes of each picture are kept.
        seeds: one per completion, the same for every picture.
        labels: classes of the pictures, in turn; if None those of their folders, where the model knows them,
            and else those of the seeds.
        unconditional: complete without classes.
        settings: of the pipeline's call.
        codes: also list the codes.
        batch: pictures at once.

    Raises:
        DigitError: no tokenizer, a broken picture.
    """
    length = pipeline.prior.config.length
    source = open_told(pictures)
    if labels is not None:
        labels = in_turn(labels, len(source))
    elif not unconditional:
        by_seed = "each completion takes its seed's class; give --labels, or --unconditional to draw without"
        labels = folder_labels(pipeline, source, otherwise=by_seed)
    side = pipeline.image_size
    above = ["original", "all codes", *(f"seed {seed}" for seed in seeds[:STRIP])]  # the strip's columns
    shown = [torch.zeros(0, len(above), 3, side, side, dtype=torch.uint8)]
    written: list[list[Any]] = []  # per batch of pictures: the first, rows and strips
    used = None
    at_once = max(1, batch // len(seeds))
    blocks = in_blocks(len(source), at_once)[rank() :: world_size()]
    units = pipeline.work(len(seeds), prefix=known) + pipeline.work(1, prefix=length)
    with progress("sample, codes", units * sum(map(len, blocks))) as advance:
        told = {"known": known, "seeds": seeds, "codes": codes}
        told["how"] = {"batch_size": batch, "progress": advance, "unconditional": unconditional, **settings}
        for numbers, views in stream(source, side, batch_size=at_once, blocks=blocks, strict=True):
            own = None if labels is None else [labels[i] for i in numbers.tolist()]
            names = [source.names[i] for i in numbers.tolist()]
            done = _complete(pipeline, views[:, 0], numbers, names, own, out, **told)
            used, strips = done.settings, []
            for number, name, strip in zip(numbers.tolist(), names, done.strips, strict=True):
                strips.append({"file": f"strip-{number:06d}.png", "from": name})
                write_picture(grid(strip, columns=len(above), above=above), out / strips[-1]["file"])
                if number < GRID // len(above):
                    shown.append(strip[None].clone())
            written.append([int(numbers[0]), done.rows, strips])
    places = [number for block in blocks for number in block if number < GRID // len(above)]
    order = torch.tensor([number for share in gather(places) for number in share]).argsort()
    top = torch.cat(gather_rows(torch.cat(shown)))[order]
    if is_main():
        write_picture(grid(top.flatten(0, 1), columns=len(above), above=above), out / "grid.png")
    chunks = sorted(chunk for share in gather(written) for chunk in share)  # by their first picture
    return {
        "settings": next(settings for settings in gather(used) if settings is not None),
        "pictures": str(pictures),
        "read_as": source.read_as,
        "samples": [row for _, rows, _ in chunks for row in rows],
        "strips": [strip for _, _, strips in chunks for strip in strips],
    }


def _complete(
    pipeline: DigitPipeline,
    originals: UInt8[Tensor, "b 3 h w"],
    numbers: Int[Any, " b"],
    names: Sequence[str],
    labels: list[int] | None,
    out: Path,
    *,
    known: int,
    seeds: Sequence[int],
    codes: bool,
    how: dict[str, Any],
) -> _Completed:
    """Write the completions of a batch of pictures, and render the pictures from all of their codes."""
    count, batch = len(originals), how["batch_size"]
    prefix = pipeline.encode(originals.float() / 255)
    again = pipeline(labels, seeds=[seeds[0]] * count, prefix=prefix, **how)
    begin(out)
    rows, tiles = [], [originals.unsqueeze(1), again.pixels.unsqueeze(1)]
    used = again.settings
    for start in range(0, len(seeds), batch):
        part = list(seeds[start : start + batch])
        drawn = pipeline(
            labels and [label for label in labels for _ in part],
            seeds=part * count,
            prefix=prefix[:, :known].repeat_interleave(len(part), 0),
            **how,
        )
        used = drawn.settings
        for i, image in enumerate(drawn.images):
            place = i // len(part)
            file = f"{int(numbers[place]):06d}-{drawn.seeds[i]:06d}.png"
            write_picture(image, out / file)
            row = listed(drawn, i, pipeline.classes, codes=codes)
            rows.append({"file": file, "seed": row.pop("seed"), "from": names[place], **row})
        tiles.append(drawn.pixels.unflatten(0, (count, len(part)))[:, : max(0, STRIP - start)])
    return _Completed(rows, torch.cat(tiles, 1), used)


def folder_labels(pipeline: DigitPipeline, source: ImageSource, *, otherwise: str) -> list[int] | None:
    """The class of each picture for the pipeline's prior; None where prior or folders know none.

    If only the folders know none, a line says so, and what is done `otherwise`.
    """
    count = pipeline.prior.config.classes
    if not count:
        return None
    names = pipeline.classes or [str(i) for i in range(count)]
    names = [plain(name) for name in names]
    unknown = next((name for name in source.classes if plain(name) not in names), None)
    if source.labels is None:
        say(f"{source.path} has no folders of classes: {otherwise}")
        return None
    if unknown is not None:
        say(f"{unknown}, a folder of {source.path}, is no class of the model: {otherwise}")
        return None
    places = [names.index(plain(name)) for name in source.classes]
    return [places[label] for label in source.labels.tolist()]

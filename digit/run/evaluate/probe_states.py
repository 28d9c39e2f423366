"""Codes or pictures -> what linear heads read of a frozen network: states, pooled, kept, with their labels.

States are computed once and kept in float16: in memory, or on disk for the next call.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from digit.arrays import array_in
from digit.data.codes import Codes
from digit.data.images import ImageSource
from digit.entries import entries
from digit.errors import DigitError, check_lineage
from digit.evaluation.probe import Pool, fit_probe, pooled_features, pooled_states, probe_results, split_rows
from digit.files import atomic_file, clean_up, make_folder, read_json, write_json_atomic
from digit.opening import open_regular, sha256_of
from digit.own_tokenizer import OwnTokenizer
from digit.prior import Prior
from digit.progress import progress, say
from digit.run.class_names import labels_among
from digit.run.device import autocast
from digit.run.evaluate.measurement import reading
from digit.run.own_code import id_of
from digit.weights.artifact import artifact_of, load


class Split(NamedTuple):
    """Features of one set of pictures and their labels; none of either by default."""

    features: Tensor = torch.empty(0, 1, 1)  # n l d
    labels: Tensor = torch.empty(0, dtype=torch.int64)  # n
    views: int = 1  # of each picture, one after the other


class Probed(NamedTuple):
    """What heads read out of one network."""

    id: str
    tokens: str  # such as 16x16
    codes: int | None  # K of a prior
    width: int
    parameters: int
    values: dict[str, float]  # as `probe_results` yields them
    counts: dict[str, int]  # pictures by set


def probe_prior(
    name: str,
    path: Path,
    folders: Sequence[Path | None],
    *,
    pool: Pool,
    views: int,
    reads: dict[str, Any],
    trains: dict[str, Any],
) -> Probed:
    """Heads on every layer of a prior, trained, chosen and scored on the codes in three folders.

    `reads` are options of `cached_rows`, `trains` of `fit_probe`.
    """
    prior: Any = load(path, kind="prior", device=reads["where"])
    splits = states_of(prior, path, folders, pool=pool, views=views, reads=reads)
    found, shape = train_heads(splits, f"heads of {name}", trains), prior.config
    side = round(shape.length**0.5)
    return Probed(artifact_of(prior)["id"], f"{side}x{side}", shape.codes, shape.width, _size(prior), *found)


def probe_encoder(
    name: str, tokenizer: Any, sources: Sequence[ImageSource | None], batch: int, trains: dict[str, Any]
) -> Probed:
    """Heads on the mean of the features that a tokenizer quantises, of three sets of pictures."""
    own = isinstance(tokenizer, OwnTokenizer)
    if own:
        tokenizer.needs("features", "a probe of its encoder")
    splits = features_of(tokenizer, sources, batch, trains["device"])
    found = train_heads(splits, f"heads of encoder of {name}", trains)
    width, tokens = splits[0].features.shape[-1], "-" if own else f"{tokenizer.grid}x{tokenizer.grid}"
    network = tokenizer.given if own else tokenizer.encoder
    return Probed(id_of(tokenizer), tokens, None, width, _size(network), *found)


def _size(network: Any) -> int:
    parameters = network.parameters() if isinstance(network, nn.Module) else ()
    return sum(parameter.numel() for parameter in parameters)


def train_heads(
    splits: Sequence[Split], title: str, trains: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, int]]:
    """Train on the first set; each layer's results on the last, chosen on the middle one; pictures by set."""
    train, chooses, scores = splits
    rows, classes = None, int(train.labels.max()) + 1
    if not len(chooses.labels):
        # By picture: another view of a picture that chooses must not be trained on.
        views = train.views
        trained, kept = split_rows(len(train.labels) // views, seed=trains["seed"])
        rows = (trained[:, None] * views + torch.arange(views)).flatten()
        at = (kept * views).to(train.features.device)
        chooses = Split(train.features[at], train.labels[at.to(train.labels.device)])
    count = len(train.labels) if rows is None else len(rows)
    counts = {"training views": count, "held-out pictures": len(chooses.labels)}
    if len(scores.labels):
        counts["test pictures"] = len(scores.labels)
    steps = max(1, round(trains["epochs"] * count / min(1024, count)))
    with progress(title, steps) as advance:
        options = {"classes": classes, "rows": rows, "progress": advance, **trains}
        probe = fit_probe(train.features, train.labels, **options)
    tested = scores[:2] if len(scores.labels) else None
    return dict(probe_results(probe, (chooses.features, chooses.labels), tested)), counts


def states_of(
    prior: Any, path: Path, folders: Sequence[Path | None], *, pool: Pool, views: int, reads: dict[str, Any]
) -> list[Split]:
    """The pooled states of the codes to train on (several views), to choose on and to score on."""
    origin = artifact_of(prior)
    over = "vq_codes" if "vqgan" in origin["lineage"] else "codes"
    where, batch, classes, splits = reads["where"], reads["batch"], None, []
    for kind, folder in zip(("train", "held-out", "test"), folders, strict=True):
        if folder is None:
            splits.append(Split())
            continue
        opened = Codes(folder)
        check_codes(opened, prior, over, origin["lineage"], path)
        classes, array = classes or opened.classes, opened.array(over)
        used = views if kind == "train" else 1
        if not 1 <= used <= array.shape[1]:
            raise DigitError(f"--views {used}: {folder} holds {array.shape[1]} views of a picture")
        flat = array[:, :used].reshape(-1, array.shape[2])
        labels = labels_among(opened, classes, known_to=str(folders[0]))
        labels = labels.repeat_interleave(used).to(where)
        codes = opened.meta["files"][f"{over}.npy"]
        key = {"prior": origin["id"], "codes": codes, "pool": pool, "views": used}
        key["precision"] = "bfloat16" if where.type == "cuda" else "float32"

        def pooled(start: int, flat: Any = flat) -> Tensor:
            part = torch.from_numpy(flat[start : start + batch].astype("int64")).to(where)
            with autocast(where):
                return pooled_states(prior, part, pool=pool)

        shape = len(flat), prior.config.layers + 1, prior.config.width
        title = f"states of {path.name}, {kind}"
        splits.append(Split(cached_rows(pooled, shape, title=title, key=key, **reads), labels, used))
    return splits


@torch.no_grad()
def features_of(
    tokenizer: Any, sources: Sequence[ImageSource | None], batch: int, where: torch.device
) -> list[Split]:
    """The pooled features of pictures, at the size that the tokenizer was fitted at."""
    size = tokenizer.size or 256
    splits, classes = [], None
    for source in sources:
        if source is None:
            splits.append(Split())
            continue
        rows, classes = [], classes or source.classes
        labels = labels_among(source, classes, known_to=str(sources[0] and sources[0].path))
        with reading("features", source, size, where, batch) as (pixels, seen):
            for part in pixels():
                with autocast(where):
                    rows.append(pooled_features(tokenizer, part))
        splits.append(Split(torch.cat(rows), labels[seen].to(where)))
    return splits


def check_codes(codes: Codes, prior: Prior, over: str, lineage: dict[str, str], path: Path) -> None:
    """DigitError where codes have no labels or are not those that the prior reads."""
    if codes.labels is None:
        raise DigitError(f"{codes.path} has no labels: tokenize pictures in class folders for a linear probe")
    check_lineage(f"{path}", lineage, f"{codes.path}", codes.lineage(over))
    here, there = (codes.vocabulary(over), codes.length(over)), (prior.config.codes, prior.config.length)
    if here != there:
        raise DigitError(
            f"{codes.path} has {here[1]} codes per picture out of {here[0]}, the prior {path} reads"
            f" {there[1]} out of {there[0]}: tokenize the pictures with the prior's tokenizer"
        )


def cached_rows(
    pooled: Callable[[int], Tensor],
    shape: tuple[int, int, int],
    *,
    title: str,
    key: dict[str, Any],
    cache: Path | None,
    limit: float,
    batch: int,
    where: torch.device,
) -> Tensor:
    """float16 rows (count, layers, width): from `cache` if they lie there, else `pooled(start)` in batches.

    `key` is all that decides the rows; its hash names the file in the folder `cache`, of which the rows are a
    memory map. Without a cache they are in memory of `where`, `limit` bytes at most. Raises DigitError for
    more, for a damaged file, or for states too large for float16.
    """
    needed = 2 * math.prod(shape)
    size = f"{needed / 1e9:.3g} GB ({shape[0]} x {shape[1]} layers x {shape[2]}, float16)"
    if cache is None:
        if needed > limit:
            raise DigitError(f"{title} take {size}, above --memory-gb {limit / 1e9:g}: give --cache FOLDER")
        say(f"{title}: {size} in memory")
        kept = torch.empty(shape, dtype=torch.float16, device=where)
        _fill(kept, pooled, batch, title)
        return kept
    make_folder(cache)
    clean_up(cache)
    name = hashlib.sha256(json.dumps([key, shape], sort_keys=True).encode()).hexdigest()[:16]
    path, note = cache / f"{name}.npy", cache / f"{name}.json"
    if not (note.exists() and path.exists() and _object(note).get("key") == key):
        say(f"{title}: {size} into {path}")
        with atomic_file(path) as file:
            about = {"descr": "<f2", "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, about)
            rows = np.memmap(file, np.float16, "r+", file.tell(), tuple(shape))
            _fill(torch.from_numpy(rows), pooled, batch, title)
            rows.flush()
            digest = sha256_of(file)
        write_json_atomic(note, {"key": key, "sha256": digest}, checksum=True)
    with open_regular(path, links=False) as file:
        if sha256_of(file) != _object(note).get("sha256"):
            raise DigitError(f"{path} is not what was written (its checksum differs): delete it and repeat")
        # Copy on write: torch warns of maps that cannot be written, and nothing ever writes here.
        rows = array_in(file, path, mode="c", remedy="delete it and repeat")
    if rows.dtype != np.float16 or rows.shape != tuple(shape) or not rows.flags.c_contiguous:
        raise DigitError(f"{path} holds no {title} of {shape[0]} rows: delete it and repeat")
    return torch.from_numpy(rows)


def _object(note: Path) -> dict[str, Any]:
    return entries(read_json(note), {}, where=note, remedy="delete it and repeat")


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

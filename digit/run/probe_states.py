"""Codes or pictures -> what a linear probe reads of them: frozen states, pooled, with their labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from digit.data.codes import Codes
from digit.data.images import open_images
from digit.data.loader import Report, stream
from digit.errors import DigitError
from digit.evaluation.probe import Pool, pooled_features, pooled_states
from digit.progress import progress, say
from digit.run.device import autocast
from digit.run.probe import check_codes
from digit.run.state_cache import Rows, cached_rows
from digit.weights.artifact import artifact_of


class Split(NamedTuple):
    """Features of one set of pictures and their labels."""

    features: Tensor  # n l d
    labels: Tensor  # n
    views: int = 1  # of each picture, one after the other


def states_of(
    prior: Any, path: Path, folders: Sequence[Path | None], *, pool: Pool, views: int, reads: dict[str, Any]
) -> list[Split]:
    """The pooled states of the codes to train on (several views), to choose on and to score on."""
    origin = artifact_of(prior)
    over = "vq_codes" if "vqgan" in origin["lineage"] else "codes"
    where, batch, classes, splits = reads["where"], reads["batch"], None, []
    for kind, folder in zip(("train", "held-out", "test"), folders, strict=True):
        if folder is None:
            splits.append(_nothing())
            continue
        opened = Codes(folder)
        check_codes(opened, prior, over, origin["lineage"], path)
        if classes is not None and opened.classes != classes:
            raise DigitError(f"{folder} has other classes than {folders[0]}: give codes of the same classes")
        classes, array = opened.classes, opened.array(over)
        used = views if kind == "train" else 1
        if not 1 <= used <= array.shape[1]:
            raise DigitError(f"--views {used}: {folder} holds {array.shape[1]} views of a picture")
        flat = array[:, :used].reshape(-1, array.shape[2])
        labels = torch.from_numpy(opened.labels).repeat_interleave(used).to(where)
        key = {
            "prior": origin["id"],
            "codes": opened.meta["files"][f"{over}.npy"],
            "pool": pool,
            "views": used,
        }

        def pooled(start: int, flat: Any = flat) -> Tensor:
            part = torch.from_numpy(flat[start : start + batch].astype("int64")).to(where)
            with autocast(where):
                return pooled_states(prior, part, pool=pool)

        shape = Rows(len(flat), prior.config.layers + 1, prior.config.width)
        title = f"states of {path.name}, {kind}"
        splits.append(Split(cached_rows(pooled, shape, title=title, key=key, **reads), labels, used))
    return splits


@torch.no_grad()
def features_of(
    tokenizer: Any, sources: Sequence[str | None], batch: int, where: torch.device
) -> list[Split]:
    """The pooled features of pictures, at the size that the tokenizer was fitted at."""
    size, splits, classes = (
        artifact_of(tokenizer)["extra"].get("size", tokenizer.config.encoder.image_size),
        [],
        None,
    )
    for source in sources:
        if source is None:
            splits.append(_nothing())
            continue
        opened = open_images(source)
        if opened.labels is None or (classes is not None and opened.classes != classes):
            raise DigitError(f"{source} must have class folders, the same as the other pictures")
        classes, report, rows, index = opened.classes, Report(), [], []
        with progress("features", len(opened)) as advance:
            for numbers, pixels in stream(opened, size, batch_size=batch, report=report):
                with autocast(where):
                    rows.append(pooled_features(tokenizer, pixels[:, 0].to(where).float() / 255))
                index.append(torch.from_numpy(numbers))
                advance(len(numbers))
        if report.skipped:
            say(report.summary())
        splits.append(Split(torch.cat(rows), torch.from_numpy(opened.labels)[torch.cat(index)].to(where)))
    return splits


def _nothing() -> Split:
    return Split(torch.empty(0, 1, 1), torch.empty(0, dtype=torch.int64))

"""Where two sets meet, a class is its name: labels are mapped by names, or the difference is named."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from digit.data.classes import different, relabel
from digit.data.codes import Codes
from digit.data.images import ImageSource
from digit.errors import DigitError
from digit.progress import say
from digit.weights.artifact import CONFIG, describe


def labels_among(
    found: Codes | ImageSource, classes: Sequence[str], *, known_to: str | Path
) -> Int[Tensor, " n"]:
    """The labels of a set by the names of `classes`, those of `known_to`; says which of them it lacks.

    Raises:
        DigitError: it has no labels, or classes that are not among them.
    """
    if found.labels is None:
        raise DigitError(
            f"{found.path} has no labels, {known_to} has {len(classes):,} classes: give class folders"
        )
    how = {"of": str(found.path), "known_to": str(known_to)}
    labels = relabel(found.labels, found.classes, classes, **how)
    lacking = sorted(set(range(len(classes))) - set(labels.tolist()))
    if lacking:
        say(
            f"{found.path} has no picture of {different([classes[i] for i in lacking])}, which {known_to} has"
        )
    return torch.from_numpy(labels)


def check_classes(out: Path, kind: str, classes: Sequence[str]) -> None:
    """DigitError where the run in `out` began with other classes, or with these in another order."""
    if not (out / CONFIG).is_file() or (before := describe(out))["kind"] != kind:
        return
    was, now = list(before["classes"]), list(classes)
    if was != now:
        only = [f"only {who} {different(names)}" for who, names in (
            ("before", [name for name in was if name not in now]),
            ("now", [name for name in now if name not in was]),
        ) if names]  # fmt: skip
        raise DigitError(
            f"{out} began with other classes ({', '.join(only) or 'in another order'}): give its own codes, "
            "or choose another --out"
        )


def classes_told(codes: Codes, label_dropout: float | None) -> list[str]:
    """The classes that a renderer on `codes` is told: none where no share of labels to drop is given.

    Raises:
        DigitError: a share is given and the codes have no labels.
    """
    if label_dropout is not None and codes.labels is None:
        raise DigitError(
            f"{codes.path} has no labels, which --label-dropout needs: tokenize pictures in class folders, "
            "or leave it out"
        )
    return [] if label_dropout is None else codes.classes

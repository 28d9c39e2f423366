"""Names or numbers of classes -> labels; and how a stage is told them."""

import difflib
import re
import unicodedata
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.errors import DigitError
from digit.printing import listed
from digit.progress import say

_NUMBER = re.compile(r"-?[0-9]+")


def label_ids(labels: Sequence[int | str], *, names: Sequence[str], classes: int) -> list[int]:
    """Class names or numbers as numbers; DigitError for unknown ones, or a model without classes.

    A text is the name of a class if one is called so, however its accents are composed, and a number only
    else; where names look like numbers, a line says which class is meant.
    """
    if not classes:
        raise DigitError("this model knows no classes: leave --labels out")
    place = {unicodedata.normalize("NFC", name): i for i, name in enumerate(names)}
    numbered, ids, told = any(map(_NUMBER.fullmatch, place)), list[int](), dict[str, str]()
    for label in labels:
        named = place.get(unicodedata.normalize("NFC", label)) if isinstance(label, str) else None
        if named is not None:
            ids.append(named)
            if _NUMBER.fullmatch(str(label)) and int(label) != named:
                told[str(label)] = f"label {label} is the class called so, number {named}"
        elif isinstance(label, str) and not _NUMBER.fullmatch(label):
            raise DigitError(f"unknown label {label!r}: choose {_likely(label, names)}")
        elif not 0 <= int(label) < classes:
            called = f", or the name of a class: {_likely(str(label), names)}" if numbered else ""
            raise DigitError(f"label {label} is out of range: choose 0 to {classes - 1}{called}")
        else:
            ids.append(int(label))
            if numbered and isinstance(label, str) and int(label) < len(names):
                told[label] = f"no class is called {label}: it is number {label}, called {names[int(label)]}"
    for line in told.values():
        say(line)
    return ids


def _likely(label: str, names: Sequence[str]) -> str:
    """The classes to choose from, or the most similar ones where there are many."""
    if len(names) <= 20:
        return f"from {listed(names, 20) or 'numbers'}"
    known = {name.lower(): name for name in names}
    near = [known[name] for name in difflib.get_close_matches(label.lower(), known, n=3, cutoff=0.5)]
    return f"{' or '.join(near)}, or a number" if near else f"a number from 0 to {len(names) - 1}"


def taught(labels: Int[Tensor, " b"] | None, *, classes: int, dropout: float) -> Int[Tensor, " b"] | None:
    """What a stage of so many classes is told of a batch's labels: a share `dropout` of them is -1, none.

    Nothing is told, and nothing drawn from torch's generator, where there are no classes or no labels.
    """
    if not classes or labels is None:
        return None
    if dropout > 0:
        return labels.masked_fill(torch.rand(labels.shape, device=labels.device) < dropout, -1)
    return labels


def start_of(table: nn.Embedding, labels: Int[Tensor, " b"] | None) -> Float[Tensor, "#b 1 d"]:
    """The row of each label; the last, of no label, for -1, and once for all where there are no labels."""
    none = table.num_embeddings - 1
    if labels is None:
        return table.weight[none:].unsqueeze(0)
    return table(torch.where(labels < 0, none, labels)).unsqueeze(1)

"""What is refused before anything begins, each in a sentence: devices, and what sampling is given."""

import re
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from digit.errors import DigitError


def check_device(name: str | torch.device) -> torch.device:
    """The device called so; DigitError where this machine has none."""
    device = str(name)
    if not re.fullmatch(r"(cpu|mps)(:0)?|cuda(:\d\d?)?", device):  # torch takes cuda:255 for cuda
        raise DigitError(f"--device {device}: unknown device; choose cpu, cuda, cuda:N or mps")
    found = torch.device(device)
    there = {"cpu": 1, "cuda": torch.cuda.device_count() * torch.cuda.is_available()}
    if (found.index or 0) >= there.get(found.type, torch.backends.mps.is_available()):
        raise DigitError(f"--device {device}: there is no such GPU here; choose cpu")
    return found


def check_labels(
    count: int,
    labels: Int[Tensor, " m"] | None,
    *,
    classes: int,
    always: bool,
    guidance: float,
    of: Literal["prior", "renderer"] = "prior",
) -> Int[Tensor, " b"]:
    """One label per seed for a prior or renderer of so many classes, -1 where there is none.

    `always`: it never saw an image without its label. Raises DigitError for labels that it does not know,
    and for missing labels or guidance where it knows nothing without.
    """
    if count == 0:
        raise DigitError("there are no seeds to sample: give at least one")
    if labels is None:
        labels = torch.full((count,), -1)
    if len(labels) != count:
        raise DigitError(f"{count} seeds came with {len(labels)} labels: give one label per seed")
    if int(labels.max()) >= classes or int(labels.min()) < -1:
        known = f"0 to {classes - 1}" if classes else "none, it is unconditional"
        raise DigitError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, the {of} knows {known}"
        )
    if guidance != 1 and classes == 0:
        raise DigitError(f"guidance {guidance} needs a {of} of classes: this one is unconditional, give 1")
    if guidance != 1 and always:
        raise DigitError(f"guidance {guidance} needs a {of} trained with label dropout: give 1")
    if always and int(labels.min()) < 0:
        raise DigitError(f"this {of} was trained with a label for every image: give a label for every seed")
    return labels


def check_prefix(count: int, prefix: Int[Tensor, "m p"], *, length: int, codes: int) -> None:
    """Raises DigitError unless there is one row per seed, of a prior's codes, and no longer than an image."""
    if len(prefix) != count:
        raise DigitError(f"{count} seeds came with {len(prefix)} rows of a prefix: give one row per seed")
    if prefix.shape[1] > length:
        raise DigitError(
            f"the prefix has {prefix.shape[1]} codes, an image of this prior {length}: shorten it"
        )
    if prefix.numel() and not 0 <= int(prefix.min()) <= int(prefix.max()) < codes:
        raise DigitError(
            f"codes of the prefix run from {int(prefix.min())} to {int(prefix.max())}, the prior knows "
            f"{codes}: encode with the tokenizer that it was trained with"
        )


def check_codes(count: int, given: Int[Tensor, "b n"], *, length: int, codes: int) -> None:
    """Raises DigitError for codes that a renderer cannot read, or not one row per seed."""
    if len(given) != count or count == 0:
        raise DigitError(
            f"{len(given)} rows of codes came with {count} seeds: give one seed per image, and at least one"
        )
    if given.shape[1] != length:
        raise DigitError(f"the renderer reads {length} codes per image, these have {given.shape[1]}")
    lowest, highest = torch.stack(given.aminmax()).tolist()  # a GPU is waited for once
    if lowest < 0 or highest >= codes:
        raise DigitError(f"codes run from {lowest} to {highest}, the renderer knows {codes}")


def check_vocabulary(codes: Int[Tensor, "b n"], vocabulary: int) -> None:
    """Raises DigitError for codes outside 0 to vocabulary - 1."""
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < vocabulary:
        raise DigitError(
            f"codes run from {int(codes.min())} to {int(codes.max())}: give codes from 0 to {vocabulary - 1}"
        )

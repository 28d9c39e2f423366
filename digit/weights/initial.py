"""Weights that a training starts from -> a stage: classes by their names, positions by their places.

What is taken, drawn newly and left out is told; what does not fit is refused.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from digit.errors import DigitError, LineageError, check_lineage
from digit.features import resize_positions
from digit.printing import listed
from digit.weights.artifact import artifact_of, classes_of, describe, kind_of, load
from digit.weights.model_folder import part_of
from digit.weights.storage import from_dict

# Tables with a row for each class, and a last one for none.
BY_CLASS = {
    "prior": "start_embedding.weight",
    "renderer": "start_embedding.weight",
    "renderer_masked": "separator_embedding.weight",
    "renderer_flow": "label_embedding.weight",
}
# Tables of places on a square: by stage, rows before the first place.
BY_PLACE = {
    "prior": {"position_embedding.weight": 1},
    "renderer": {"position_embedding.weight": 0, "vq_position_embedding.weight": 1},
    "renderer_masked": {"position_embedding.weight": 0, "vq_position_embedding.weight": 1},
    "renderer_flow": {"position_embedding.weight": 0},
}
FREE = ("classes", "length", "vq_length", "image_size", "specials")  # settings that need not be the weights'


def config_of(name: str | Path, kind: str) -> Any:
    """The settings of the stage that a name means; DigitError where there is none of this kind."""
    try:
        folder = part_of(name, kind, hub=True)
        artifact = describe(folder)
    except DigitError as error:
        raise DigitError(f"--init-from: {error}") from error
    if artifact["kind"] != kind:
        raise DigitError(f"--init-from: {name} is a {artifact['kind']}, where a {kind} is needed")
    return from_dict(classes_of(kind)[1], artifact["config"], where=f"{folder / 'config.json'}")


def start_from(
    stage: nn.Module, name: str | Path, *, classes: Sequence[str], lineage: Mapping[str, str]
) -> tuple[str, list[str]]:
    """Give a stage the weights that a name means; their id, and lines that tell what came of each.

    `classes` are the names of the stage's own, `lineage` says what made its codes. Where the stage is on the
    meta device only the fit is looked at.

    Raises:
        DigitError: there are none, or settings other than numbers of classes and places differ in shape.
        LineageError: they know codes of another tokenizer or VQGAN.
    """
    kind, config = kind_of(stage), _config(stage)
    found = load(part_of(name, kind, hub=True), kind=kind)
    origin, before = artifact_of(found), _config(found)
    _check_codes(name, origin["lineage"], lineage)
    given, own = found.state_dict(), stage.state_dict()
    lines: list[str] = []
    table = BY_CLASS.get(kind)
    if table is not None:
        names = origin["classes"] if before.classes else []
        given[table], line = _by_class(given[table], own[table], names, classes if config.classes else [])
        lines += line
    for place, lead in BY_PLACE.get(kind, {}).items():
        rows, line = _by_place(given[place], len(own[place]), lead, config, before, place)
        given[place] = rows
        lines += line
    special = getattr(before, "specials", 0) - getattr(config, "specials", 0)
    if special > 0 and "projection.weight" in given:
        given["projection.weight"] = given["projection.weight"][special:]
        lines.append(f"left out: {special} symbols besides codes")
    _check_shapes(name, given, own, before, config)
    new, left = [each for each in own if each not in given], [each for each in given if each not in own]
    lines += [f"drawn newly: {listed(_short(new))}"] if new else []
    lines += [f"left out: {listed(_short(left))}"] if left else []
    if not any(tensor.is_meta for tensor in own.values()):
        stage.load_state_dict({each: tensor for each, tensor in given.items() if each in own}, strict=False)
    count = sum(tensor.numel() for each, tensor in given.items() if each in own)
    return origin["id"], [f"starts from {name}, {kind} {origin['id'][:12]}: {count:,} numbers", *lines]


def _config(stage: nn.Module) -> Any:
    return stage.config


def _check_codes(name: object, made_with: Mapping[str, str], lineage: Mapping[str, str]) -> None:
    """LineageError where the weights know codes of something else."""
    check_lineage(f"{name}", made_with, "these codes", lineage)
    told = {each for each in made_with if each in ("tokenizer", "vqgan")}
    if told and lineage and told != set(lineage):
        kinds = (" and ".join(sorted(each)) for each in (told, lineage))
        raise LineageError("{} knows codes of {}, these are of {}: take other codes".format(name, *kinds))


def _by_class(
    given: Tensor, own: Tensor, names: Sequence[str], wanted: Sequence[str]
) -> tuple[Tensor, list[str]]:
    """The rows of a table of classes by the names of `wanted`, with new ones for what `names` lacks."""
    if given.shape[1:] != own.shape[1:]:
        return given, []  # refused with the other shapes
    rows, place = own.clone(), {each: row for row, each in enumerate(names)}
    known = [each for each in wanted if each in place]
    if not own.is_meta:
        for row, each in enumerate(wanted):
            if each in place:
                rows[row] = given[place[each]]
        rows[-1] = given[-1]
    new, left = [each for each in wanted if each not in place], [each for each in names if each not in wanted]
    lines = [f"classes by name: {listed(known)}"] if known else []
    lines += [f"classes drawn newly: {listed(new)}"] if new else []
    lines += [f"classes left out: {listed(left)}"] if left else []
    if not names and len(given) > 1:
        lines.append(f"classes left out: {len(given) - 1:,}, which have no names")
    return rows, lines


def _by_place(
    table: Tensor, wanted: int, lead: int, config: Any, before: Any, name: str
) -> tuple[Tensor, list[str]]:
    """A table of places on a square at the size of another one, behind `lead` rows that stay."""

    def places(settings: Any) -> int:
        if hasattr(settings, "side"):
            return settings.side**2
        return settings.vq_length if name.startswith("vq_") else settings.length

    old, new = places(before), places(config)
    if old == new:
        return table[:wanted], []
    sides = math.isqrt(old), math.isqrt(new)
    if sides[0] ** 2 != old or sides[1] ** 2 != new:
        raise DigitError(
            f"--init-from: {old:,} places are not resized to {new:,}, as they do not lie on squares"
        )
    last = table[-1:].expand(old + lead - len(table), -1)  # a renderer never reads its last VQ code
    square = torch.cat((table[lead:], last)).unsqueeze(0)
    resized = resize_positions(square, (sides[0], sides[0]), (sides[1], sides[1]), "timm")[0]
    line = f"{name.removesuffix('.weight')}: resized from {sides[0]} x {sides[0]} to {sides[1]} x {sides[1]}"
    return torch.cat((table[:lead], resized))[:wanted], [line]


def _check_shapes(
    name: object, given: Mapping[str, Tensor], own: Mapping[str, Tensor], before: Any, config: Any
) -> None:
    """DigitError, with the settings that differ, where a tensor has another shape."""
    odd = [each for each in own if each in given and own[each].shape != given[each].shape]
    if odd:
        values = [
            (each.name, getattr(before, each.name), getattr(config, each.name)) for each in fields(config)
        ]
        differ = [f"{each} {old}, not {new}" for each, old, new in values if old != new and each not in FREE]
        raise DigitError(
            f"--init-from: {name} does not fit, as it has {listed(differ) or listed(odd)}: take codes of "
            "its own tokenizer, and leave out options of the shape"
        )


def _short(names: Sequence[str]) -> list[str]:
    """Names of tensors without what they are in their module."""
    return list(dict.fromkeys(each.rpartition(".")[0] for each in names))

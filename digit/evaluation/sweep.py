"""Settings of sampling -> distances: the prior's codes drawn once and shared by all renderer settings."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

PROTOCOL = (
    "the codes of each prior setting are drawn once and rendered with every renderer setting; seeds 0 to"
    " n - 1 for every cell; the reference is measured once"
)
PAPER = "figure 6 (base prior, temperature 1.0): FID and IS against top-k and top-p, a plot without numbers"

Number = int | float
Setting = dict[str, Number]  # by axis, such as top_p
Key = tuple[tuple[str, float], ...]  # of a cell, see `key`
Codes = TypeVar("Codes")


def combinations(axes: Mapping[str, Sequence[Number]]) -> list[Setting]:
    """Every combination of the axes' values, the last axis fastest; one empty setting of no axes."""
    values = [list(dict.fromkeys(numbers)) for numbers in axes.values()]
    return [dict(zip(axes, numbers, strict=True)) for numbers in itertools.product(*values)]


def sweep(
    priors: Sequence[Setting],
    renderers: Sequence[Setting],
    *,
    draw: Callable[[Setting], Codes],
    score: Callable[[Codes, Setting], Iterable[tuple[str, float]]],
    done: Collection[Key] = (),
) -> Iterator[dict[str, Any]]:
    """Yield a row per cell, {"setting", "values"}, of the cells whose `key` is not among those done.

    `draw` gives a prior setting's codes; it is called once for each that has a cell to do. `score` renders
    them with a renderer setting and yields (name, value).
    """
    for prior in priors:
        missing = [renderer for renderer in renderers if key({**prior, **renderer}) not in done]
        if not missing:
            continue
        codes = draw(prior)
        for renderer in missing:
            yield {"setting": {**prior, **renderer}, "values": dict(score(codes, renderer))}


def key(setting: Mapping[str, Number]) -> Key:
    """What makes two settings the same cell, also after a way through JSON."""
    return tuple(sorted((axis, float(number)) for axis, number in setting.items()))


def varied(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Number]]:
    """The axes with more than one value among the rows and their values in order, the most varied first."""
    axes = {axis: sorted({row["setting"][axis] for row in rows}) for axis in rows[0]["setting"]}
    several = {axis: numbers for axis, numbers in axes.items() if len(numbers) > 1}
    return dict(sorted(several.items(), key=lambda item: -len(item[1])))


def best(rows: Sequence[Mapping[str, Any]], metric: str) -> Mapping[str, Any]:
    """The row with the lowest value of a distance; the first of equals."""
    return min(rows, key=lambda row: row["values"][metric])


def pareto(rows: Sequence[Mapping[str, Any]], distance: str, quality: str) -> list[Mapping[str, Any]]:
    """The rows that no other beats in both, by rising distance (lower is better) and quality (higher is)."""
    front: list[Mapping[str, Any]] = []
    order = sorted(rows, key=lambda row: (row["values"][distance], -row["values"][quality]))
    for row in order:
        if not front or row["values"][quality] > front[-1]["values"][quality]:
            front.append(row)
    return front


def named(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """The rows as (name, value): "FID, top_k 50, top_p 0.9", with the axes that vary."""
    axes = varied(rows) if rows else {}
    for row in rows:
        for name, value in row["values"].items():
            yield ", ".join((name, *described(row, axes))), value


def described(row: Mapping[str, Any], axes: Iterable[str]) -> list[str]:
    """A row's setting in words, ["top_k 50", "top_p 0.9"], by the axes named."""
    return [f"{axis} {row['setting'][axis]:g}" for axis in axes]

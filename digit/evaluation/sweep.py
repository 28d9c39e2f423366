"""Settings of sampling -> distances: the prior's codes drawn once and shared by all renderer settings."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from digit.entries import entries
from digit.errors import DigitError

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


def taken_up(
    rows: Any, axes: Collection[str], metrics: Collection[str], *, where: object
) -> list[dict[str, Any]]:
    """The rows of an earlier sweep, values that were not finite as NaN.

    DigitError, naming `where`, unless each is of these axes and has a number for each of these metrics.
    """
    remedy = "choose another --out"
    types = {"setting": dict[str, float], "values": dict[str, float | None]}
    found = []
    for row in entries({"rows": rows}, {"rows": list[dict[str, Any]]}, where=where, remedy=remedy)["rows"]:
        entries(row, types, where=f"{where}: a row", remedy=remedy)
        values = {name: math.nan if value is None else value for name, value in row["values"].items()}
        if row["setting"].keys() != set(axes) or not set(metrics) <= values.keys():
            raise DigitError(f"{where} has a row of other settings or metrics: {remedy}")
        found.append({"setting": row["setting"], "values": values})
    return found


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

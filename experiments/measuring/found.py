"""A folder of results -> what the plots and the page ask of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digit.evaluation.prefix import Point, of_rows
from digit.evaluation.result import read_result

Row = Mapping[str, Any]


class Found:
    """The results of a folder by name; what was not measured is left out everywhere."""

    def __init__(self, folder: Path) -> None:
        """Read all of them."""
        self.results = {path.stem: read_result(path) for path in sorted(folder.glob("*.json"))}

    def get(self, name: str) -> dict[str, Any] | None:
        """A result, if there is one."""
        return self.results.get(name)

    @property
    def networks(self) -> list[str]:
        """Names of the networks that measured, the classifier first; none where nothing was measured."""
        for name, result in self.results.items():
            if name.startswith(("sweep-", "prefix-", "winners-")):
                return [each["name"] for each in result["features"]]
        return []

    @property
    def distances(self) -> list[str]:
        """Names of their distances."""
        return [f"FD-{name}" for name in self.networks]

    @property
    def machines(self) -> list[str]:
        """That measured on these networks."""
        made = [
            r["made_by"]["device"] for n, r in self.results.items() if n.startswith(("sweep-", "prefix-"))
        ]
        return sorted({name for name in made if name})

    def points(self, system: str, way: str, kind: str = "prefix") -> list[Point]:
        """Of a prefix curve, by length."""
        result = self.get(f"{kind}-{system}-{way}")
        return (
            sorted(of_rows(result["points"], where=f"{kind}-{system}-{way}"), key=lambda point: point.prefix)
            if result
            else []
        )

    def rows(self, system: str, way: str) -> list[Row]:
        """The cells of a sweep."""
        result = self.get(f"sweep-{system}-{way}")
        return result["rows"] if result else []

    def winner(self, system: str, way: str, by: str) -> Row | None:
        """The row that is the best by a distance, drawn again."""
        result = self.get(f"winners-{system}-{way}")
        rows = result["rows"] if result else []
        return next((row for row in rows if row["best_by"] == by), None)


def where(rows: Sequence[Row], **setting: float) -> list[Row]:
    """The cells with these values; an axis that a system lacks does not count."""
    return [
        row
        for row in rows
        if all(row["setting"].get(axis, value) == value for axis, value in setting.items())
    ]


def values_of(rows: Sequence[Row], axis: str) -> list[float]:
    """The values of an axis among cells, in order."""
    return sorted({row["setting"][axis] for row in rows if axis in row["setting"]})


def at_edge(rows: Sequence[Row], best: Row) -> list[str]:
    """Axes whose end the best cell lies at, where a value beyond the end would have a meaning."""
    found = []
    natural = {"top_p": 1.0, "renderer_top_p": 1.0, "top_k": 0, "guidance": 1.0}
    for axis, value in best["setting"].items():
        values = values_of(rows, axis)
        if axis == "top_k" and 0 in values:
            values = [*values[1:], 0]  # all codes are the longest list
        if len(values) > 1 and value in (values[0], values[-1]) and value != natural.get(axis):
            found.append(axis)
    return found

"""Numbers -> Markdown: tables and comparisons in words, so that every sentence follows from its figures."""

from collections.abc import Iterable, Mapping, Sequence

PICTURES = "../bench/results/measurements"  # as seen from docs/


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, with an empty line after it."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines] + [""]


def picture(name: str, what: str) -> list[str]:
    """A plot of the folder of results."""
    return [f"![{what}]({PICTURES}/{name})", ""]


def ahead(ours: float, theirs: float) -> str:
    """How much lower a distance is than another: "12% ahead"."""
    change = 1 - ours / theirs
    return f"{abs(change):.0%} {'ahead' if change >= 0 else 'behind'}"


def verdict(right: bool | None) -> str:
    """Whether the small scale says what the paper says."""
    return {True: "agrees", False: "**does not agree**", None: "undecided"}[right]


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def setting(values: Mapping[str, float]) -> str:
    """A cell's setting, without what leaves the distribution as it is."""
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 1.0, "renderer_temperature": 1.0}
    plain |= {"renderer_top_k": 0, "renderer_top_p": 1.0, "steps": 8, "noise": 4.5}
    names = {"top_k": "top-k", "top_p": "top-p"}
    words = []
    for axis, value in values.items():
        if value != plain.get(axis):
            kind = axis.removeprefix("renderer_")
            whose = "renderer " if axis.startswith("renderer_") else ""
            words.append(f"{whose}{names.get(kind, kind)} {value:g}")
    return ", ".join(words) or "nothing cut off"


def listed(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "none"

"""Prefixes of real codes -> distances: how long a prefix a prior needs (DiGIT, figure 4b)."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from jaxtyping import Int, UInt8
from pydantic import Field
from torch import Tensor

from digit.bounds import MANY
from digit.entries import Number, Text, entries
from digit.errors import DigitError
from digit.evaluation.images import compare
from digit.evaluation.measure import Measured, measure
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures

PROTOCOL = (
    "the first n codes of each picture are given, the prior draws the others, the result is rendered; every"
    " completion is compared with the reference, picture i drawn with seed i; n = all codes is the"
    " reconstruction, n = 0 plain sampling"
)
PAPER = (
    "figure 4b (219M priors, ImageNet 256 px validation): the discriminative curve is far flatter and needs a"
    " shorter prefix for the same FID; a plot without numbers"
)


_TYPES: dict[str, Any] = {  # of a point
    "model": Text,
    "prefix": Number,
    "length": Annotated[int, Field(ge=1, le=MANY)],
    "values": dict[str, float],
}


@dataclass(frozen=True, eq=False)
class Completer:
    """A model as this measurement sees it."""

    name: str
    codes: Int[Tensor, "n l"]  # of every picture, as its prior reads them; on the CPU
    # Prefixes b p of the pictures with these numbers -> completed and rendered pictures.
    complete: Callable[[Int[Tensor, "b p"], Sequence[int]], UInt8[Tensor, "b 3 h w"]]


@dataclass(frozen=True)
class Point:
    """What one model reaches with one length of the prefix."""

    model: str
    prefix: int  # codes given
    length: int  # codes of a picture
    values: dict[str, float]  # by metric, such as FID

    @property
    def share(self) -> float:
        """Of a picture's codes, how many are given: 0 to 1."""
        return self.prefix / self.length


def prefix_distances(
    completers: Iterable[Completer],
    prefixes: Sequence[int],
    networks: Sequence[Network],
    reference: Sequence[Measured],
    *,
    batch_size: int = 64,
    device: str = "cpu",
    done: Collection[tuple[str, int]] = (),
) -> Iterator[Point]:
    """Yield Fréchet distance and inception score of each model's completions for each length of the prefix.

    `reference` is what `measure` said of the reference with the same networks. Lengths beyond a model's
    codes are left out for that model, and so are those `done`, by the model's name. Raises DigitError if no
    model has as many codes, or a length is negative.
    """
    completers = list(completers)
    check_prefixes(prefixes, [completer.codes.shape[1] for completer in completers])
    for completer in completers:
        count, length = completer.codes.shape
        for known in sorted(set(prefixes)):
            if known > length or (completer.name, known) in done:
                continue
            pictures = Pictures(completer.name, _completions(completer, known, batch_size), count, size=None)
            found = measure(pictures, networks, device=device)
            values: dict[str, float] = {}
            for network, here, there in zip(networks, found, reference, strict=True):
                values |= compare(network, here, there, metrics=["fd", "is"])
            yield Point(completer.name, known, length, values)


def named(points: Iterable[Point]) -> Iterator[tuple[str, float]]:
    """The points as (name, value): "VQ: FID, prefix 64 of 256"."""
    for point in points:
        for name, value in point.values.items():
            yield f"{point.model}: {name}, prefix {point.prefix} of {point.length}", value


def as_rows(points: Iterable[Point]) -> list[dict[str, Any]]:
    """The points as JSON."""
    return [{**vars(point), "share": point.share} for point in points]


def of_rows(rows: Any, *, where: object) -> list[Point]:
    """The points that `as_rows` made JSON of; DigitError, naming `where`, if it did not make this."""
    remedy = "choose another --out"
    entries({"points": rows}, {"points": list[dict[str, Any]]}, where=where, remedy=remedy)
    for row in rows:
        entries(row, _TYPES, where=f"{where}: a point", remedy=remedy)
        if not row["prefix"] <= row["length"]:
            raise DigitError(f"{where} has a prefix of {row['prefix']} in {row['length']} codes: {remedy}")
    return [Point(row["model"], row["prefix"], row["length"], dict(row["values"])) for row in rows]


def check_prefixes(prefixes: Sequence[int], lengths: Sequence[int]) -> None:
    """Raises DigitError where a prefix is longer than every model's pictures, or negative."""
    if not prefixes:
        raise DigitError("--prefix is empty: give the numbers of codes to keep, such as 0 16 64")
    if min(prefixes) < 0 or max(prefixes) > max(lengths):
        wrong = min(prefixes) if min(prefixes) < 0 else max(prefixes)
        raise DigitError(
            f"--prefix {wrong}: pictures of these models have at most {max(lengths)} codes, "
            f"give 0 to {max(lengths)}"
        )


def _completions(completer: Completer, known: int, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(completer.codes), batch_size):
        part = completer.codes[start : start + batch_size, :known]
        yield completer.complete(part, range(start, start + len(part)))

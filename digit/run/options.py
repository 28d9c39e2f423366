"""Types of options as verbs write them into their signatures, each with the word that its help shows.

Plain types need none of these: the help shows N for int, X for float, TEXT for str, PATH for Path, the
choices of a Literal, and the same for `T | None` and `tuple[T, ...]`. Every number has one of digit.bounds'
types. `Positional[Model]` makes a positional argument. Of several types the first is typed, the others are
for Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from digit.bounds import Seed, Side

T = TypeVar("T")


@dataclass(frozen=True)
class Metavar:
    """The word that stands for a value in help."""

    word: str


class Hidden(frozenset[str]):
    """Fields of a dataclass, and of those in it, that are no options of a verb: for Python alone."""


POSITIONAL = "positional"
Positional = Annotated[T, POSITIONAL]

Model = Annotated[str, Metavar("MODEL")]  # a folder, a bundled model's name or owner/name on the hub
Pictures = Annotated[str, Metavar("PICTURES")]  # folder, zip, tar shards or npz
Name = Annotated[str, Metavar("NAME")]
Device = Annotated[str, Metavar("DEVICE")]  # cpu, cuda, cuda:N or mps
Seeds = Annotated[str | Sequence[Seed], Metavar("SEEDS")]  # 0-63 or 1,5,9-12; in Python also a list
Label = Annotated[str | int, Metavar("CLASS")]  # a class name or number
Network = Annotated[str, Metavar("NETWORK")]  # inception, dinov2-l, timm:NAME, classifier:FOLDER, ...
Folder = Annotated[Path, Metavar("FOLDER")]
Codes = Annotated[Path, Metavar("CODES")]  # folder of `digit tokenize`
File = Annotated[Path, Metavar("FILE")]
Pixels = Annotated[Side, Metavar("PIXELS")]

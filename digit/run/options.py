"""Types of options as verbs write them into their signatures, each with the word that its help shows.

Plain types need none of these: the help shows N for int, X for float, TEXT for str, PATH for Path, the
choices of a Literal, and the same for `T | None` and `tuple[T, ...]`. `Positional[Model]` makes a positional
argument.
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional as Positional  # verbs take it from here
from tyro.conf import arg

Model = Annotated[str, arg(metavar="MODEL")]  # a folder, a bundled model's name or owner/name on the hub
Pictures = Annotated[str, arg(metavar="PICTURES")]  # folder, zip, tar shards or npz
Name = Annotated[str, arg(metavar="NAME")]
Device = Annotated[str, arg(metavar="DEVICE")]  # cpu, cuda or cuda:N
Seeds = Annotated[str, arg(metavar="SEEDS")]  # 0-63 or 1,5,9-12
Label = Annotated[str, arg(metavar="CLASS")]  # a class name or number
Network = Annotated[str, arg(metavar="NETWORK")]  # inception, dinov2-l, timm:NAME, classifier:FOLDER, ...
Folder = Annotated[Path, arg(metavar="FOLDER")]
Codes = Annotated[Path, arg(metavar="CODES")]  # folder of `digit tokenize`
File = Annotated[Path, arg(metavar="FILE")]
Seconds = Annotated[float, arg(metavar="SECONDS")]
Degrees = Annotated[float, arg(metavar="DEGREES")]
Share = Annotated[float, arg(metavar="SHARE")]  # between 0 and 1
Pixels = Annotated[int, arg(metavar="PIXELS")]

"""What a folder or an archive holds, before it is called pictures with labels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

_JPEG = (".jpe", ".jpeg", ".jpg")
_OTHERS = (".bmp", ".gif", ".j2k", ".jp2", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
LARGEST = 2**30  # bytes of a picture file; what claims more is not read
SUFFIXES = frozenset(_JPEG + _OTHERS)  # of the formats that `decode` reads


@dataclass(frozen=True)
class Listing:
    """Members that are named like pictures, in sorted order, and how to read them."""

    names: list[str]  # unique, sorted
    places: list[
        str
    ]  # the path within the data set; differs from the name where several shards are read as one
    sizes: Callable[[], list[int]]  # bytes of each
    read: Callable[[int], bytes]  # the file of member i; raises BrokenImage
    ignored: list[tuple[str, str]]  # (member, reason), never read
    label_names: list[str] | None = None  # where the archive states labels beside the pictures


def ignore_reason(name: str) -> str | None:
    """Why a member of an archive or folder is no picture to read; None if it is one.

    Nothing is ever extracted, but a name that would leave the folder marks an archive made to do harm.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return "its path leads outside the archive"
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return "hidden"
    if path.suffix.lower() not in SUFFIXES:
        return "not named like a picture"
    return None

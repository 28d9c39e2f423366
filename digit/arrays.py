"""Arrays in NumPy's files, which anybody may have written: mapped, never unpickled, or refused."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from digit.errors import DigitError
from digit.opening import name_of
from digit.printing import readable

# What the readers of NumPy, zipfile and pickletools raise on files that are none of theirs, or lie. They are
# listed so that no other error, which would be ours, reads as damage.
READERS_RAISE = (
    OSError, ValueError, EOFError, SyntaxError, TypeError, LookupError, OverflowError, NotImplementedError,
    RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


def array_in(
    file: BinaryIO, path: str | Path, *, mode: Literal["r", "c"] = "r", remedy: str = "copy it again"
) -> np.ndarray:
    """The array of an open .npy file, mapped, so that it takes no memory by what its header claims.

    `path` is what the file is called; with mode "c" the map can be written without changing the file.
    DigitError with `remedy` if it holds none, less than it claims, or objects that would be unpickled.
    """
    try:
        with np.errstate(all="ignore"):  # shapes whose product is too large are refused, not warned of
            return np.load(name_of(file), mmap_mode=mode, allow_pickle=False)
    except (*READERS_RAISE, MemoryError) as error:  # its header claims more than can be mapped
        what = readable(error, 100) or "it is empty"
        raise DigitError(f"{path} is no array of numbers ({what}): {remedy}") from None

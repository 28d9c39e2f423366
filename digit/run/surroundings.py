"""What a command finds around it: standard streams, closed or without Unicode, and the environment."""

import errno
import io
import os
import re
import sys
from typing import Any

from digit.errors import DigitError

NAMES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT", "OMP_NUM_THREADS")
SECONDS = ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT",)
_FROM = {"RANK": 0, "LOCAL_RANK": 0}  # the others count from 1
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # nobody reads any more: `| head`, a closed terminal


class _Lenient(io.FileIO):
    """A standard stream's descriptor. What nobody reads any more is dropped, and the work goes on."""

    def __init__(self, number: int, drops: tuple[int, ...]) -> None:
        super().__init__(number, "w", closefd=False)
        self._drops = drops

    def write(self, data: Any, /) -> int:
        """Write, or pretend to."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in self._drops:
                return len(data)
            self._drops += (errno.ENOSPC,)  # said once: the interpreter writes what is left again at its end
            raise


def mend_streams() -> None:
    """Give the process standard streams on which anything can be said.

    A closed one becomes the null device, and its number too, which the next file would get else. Characters
    that a stream's encoding has not are written as escapes.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for number, name, drops in ((1, "stdout", _GONE), (2, "stderr", (*_GONE, errno.ENOSPC))):
        old = getattr(sys, name)
        encoding, by_line = ("utf-8", False) if old is None else (old.encoding, old.line_buffering)
        raw = io.BufferedWriter(_Lenient(number, drops))
        new = io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=by_line or number == 2)
        setattr(sys, name, new)


def check_environment() -> None:
    """Leave out variables that are set and empty, and a rank of a process that is alone.

    Raises:
        DigitError: one that libraries or ours read as a number is none.
    """
    os.environ["MPLBACKEND"] = "agg"  # plots are files, and of another name matplotlib does not start
    for name in (*NAMES, *SECONDS):
        value = os.environ.get(name, "").strip()
        if not value:
            os.environ.pop(name, None)
            continue
        first = value.split(",")[0] if name == "OMP_NUM_THREADS" else value  # one for each level
        low = _FROM.get(name, 1)
        if not re.fullmatch("[0-9]{1,9}", first) or int(first) < low:
            del os.environ[name]  # so that it is read no more
            raise DigitError(
                f"{name} is {value!r} in the environment: unset it, or give a whole number from {low}"
            )
    size, rank = (int(os.environ.get(name, usual)) for name, usual in (("WORLD_SIZE", "1"), ("RANK", "0")))
    if size < 2:  # the main process is the one that speaks
        os.environ.pop("RANK", None)
    elif rank >= size:
        raise DigitError(f"RANK is {rank} in the environment and WORLD_SIZE {size}: start all by torchrun")

"""How a command ends when it is told to: Ctrl-C and SIGTERM, each with its exit code."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from digit.errors import Terminated

SENTENCE = "digit: interrupted; what is written is whole, and the same command goes on or starts again"


def at_once() -> None:
    """From here on a signal ends the process without further ado: for while nothing has been done."""
    _handle(_leave)


def by_exception() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt and SIGTERM Terminated, so that work cleans up."""
    _handle(_raise)


def interrupted(stop: KeyboardInterrupt) -> int:
    """Say it once, from the main process, and give the exit code."""
    if os.environ.get("RANK", "0") == "0":
        print(SENTENCE, file=sys.stderr)
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells' background jobs have it
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{SENTENCE}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

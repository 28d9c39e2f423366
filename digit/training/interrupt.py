"""Ctrl-C and SIGTERM that let a training step finish: the state is saved, then the run ends."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from digit.errors import Terminated

ECHO = 5.0  # seconds in which torchrun's copy of a signal arrives that the terminal has sent to all processes

T = TypeVar("T")


class Interrupts:
    """The first SIGINT or SIGTERM given to `handle` waits for a safe place; the second raises at once.

    Safe places are where `signal` is looked at, and what runs under `attempt`, such as waiting for data or
    measuring, which can be long.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # the first that came, here or in another process
        self.insisted = False  # a second one came: leave without saving
        self._since: float | None = None  # time.monotonic() of the first that came here
        self._immediate = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came; its subclass Terminated if it was SIGTERM."""
        if self.signal is not None:
            raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

    def attempt(self, work: Callable[[], T]) -> T | None:
        """What `work` returns, or None if a signal came before it or broke it off, at any point."""
        try:
            try:
                self._immediate = True
                self.check()
                return work()
            finally:
                self._immediate = False
        except KeyboardInterrupt:
            if self.insisted:
                raise
            self.signal = self.signal or signal.SIGINT  # raised by the work itself
            return None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, as its handler."""
        if self._since is None:
            self.signal, self._since = self.signal or number, time.monotonic()
        elif "TORCHELASTIC_RUN_ID" not in os.environ or time.monotonic() - self._since > ECHO:
            self.insisted = True
        if self.insisted or self._immediate:
            self._immediate = False  # what cleans up on the way out is not broken off
            self.check()

"""Ctrl-C and SIGTERM that let a training step finish: the state is saved, then KeyboardInterrupt goes up."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupts:
    """While entered, the first SIGINT or SIGTERM waits for a safe place; the second raises at once.

    Safe places are `check()` and the blocks under `at_once()`, such as waiting for data or measuring, which
    can be long. Handlers belong to the main thread: in another one this does nothing.
    """

    def __init__(self) -> None:
        """No signal has come yet."""
        self.requested = False  # a signal came
        self.insisted = False  # a second one came: leave without saving
        self._immediate = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.requested:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that a signal may leave at any point."""
        self._immediate = True
        try:
            self.check()
            yield
        finally:
            self._immediate = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested, self.insisted = True, self.requested
        if self.insisted or self._immediate:
            raise KeyboardInterrupt

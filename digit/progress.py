"""Progress with time left, for anything that lasts longer than two seconds, on standard error."""

import datetime
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from digit.distributed import is_main
from digit.errors import spoken
from digit.printing import put, readable

INTERVAL = 10.0  # seconds between two plain lines


class Bar:
    """How far something is: a bar on a terminal, else a plain line every ten seconds, while it is entered.

    Calling it with a number moves it on by that much. Of several processes the main one speaks, of its own
    part; a bar that is not `shown` is silent too.
    """

    def __init__(self, title: str, total: int | None, *, done: int = 0, shown: bool = True) -> None:
        """`total` None: nobody knows how many there will be, so there is a count but no time left."""
        self.title, self.total, self.done = readable(title), total, done
        self._shown, self._note = shown and is_main(), ""
        self._began, self._first = time.monotonic(), done
        self._spoken = self._began
        self._bar: Any = None
        if self._shown and sys.stderr.isatty():
            texts = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}"))
            columns = (next(texts), BarColumn(), MofNCompleteColumn(), next(texts), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.title, total=total, completed=done, note="")

    def __enter__(self) -> "Bar":
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take it down."""
        if self._bar:
            self._bar.stop()

    def __call__(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        if self._bar:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._spoken >= INTERVAL:
            self._speak()

    def note(self, text: str, *, now: bool = False) -> None:
        """What stands behind the number from here on; with `now` a plain line follows at once."""
        self._note = readable(text)
        if self._bar:
            self._bar.update(self._task, note=self._note)
        elif now:
            self._speak()

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        line = spoken(line)
        if self._bar:
            self._bar.console.print(Text(readable(line)), soft_wrap=True)
        elif self._shown:
            put(line, error=True)

    def _speak(self) -> None:
        now = time.monotonic()
        self._spoken, state = now, f"{self.done} done"
        if self.total is not None:
            each = (now - self._began) / max(self.done - self._first, 1)
            left = datetime.timedelta(seconds=round(each * (self.total - self.done)))
            state = f"{self.done}/{self.total}, {left} left"
        self.say(f"{self.title}: {state}{self._note and f', {self._note}'}")


def progress(title: str, total: int | None) -> Bar:
    """A bar for a `with` block, whose `advance(count)` it is."""
    return Bar(title, total)


def say(sentence: str) -> None:
    """One line on standard error, from the main process, in the words of the caller."""
    if is_main():
        put(spoken(sentence), error=True)

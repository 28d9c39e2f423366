"""Progress with time left, for anything that lasts longer than two seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from digit.distributed import is_main


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield `advance(count)`: a bar on a terminal, else a plain line every ten seconds, on standard error.

    `total` None: nobody knows how many there will be, so there is a count but no time left. Of several
    processes the main one speaks, of its own part.
    """
    if not is_main():
        yield lambda count: None
        return
    if sys.stderr.isatty():
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, started = 0, time.monotonic()
    spoken = started

    def advance(count: int) -> None:
        nonlocal done, spoken
        done += count
        now = time.monotonic()
        if now - spoken >= 10:
            spoken = now
            state = f"{done} done"
            if total is not None:
                state = f"{done}/{total}, {(now - started) / max(done, 1) * (total - done):.0f} s left"
            print(f"{title}: {state}", file=sys.stderr, flush=True)

    yield advance


def say(sentence: str) -> None:
    """One line on standard error, from the main process."""
    if is_main():
        print(sentence, file=sys.stderr, flush=True)

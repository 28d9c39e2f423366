"""What a test of the suite is, and what comes out of it."""

import contextlib
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class About:
    """One row of the table, before it is run."""

    what: str  # what is done, in a sentence
    goal: str  # the figure to reach
    full: int  # cases, so that they take minutes
    short: int  # cases, so that they take seconds


@dataclass
class Outcome:
    """What came out. A loss is whatever should not have happened, in a sentence that names the case."""

    cases: int = 0
    losses: list[str] = field(default_factory=list)
    figures: dict[str, float | int | str] = field(default_factory=dict)  # by name with unit

    def lost(self, sentence: str) -> None:
        """Note a loss."""
        self.losses.append(sentence)

    def check(self, holds: bool, sentence: str) -> None:
        """Note a loss unless something holds."""
        if not holds:
            self.lost(sentence)


class Memory:
    """Resident memory of this process, in bytes, as the kernel counts it."""

    before = 0  # when the block began
    peak = 0  # at most inside of it

    @property
    def growth(self) -> float:
        """Megabytes (10^6) that the block took at most beyond what was there."""
        return max(0, self.peak - self.before) / 1e6


@contextlib.contextmanager
def memory() -> Iterator[Memory]:
    """Measure what a block takes at most; the numbers are there when it has ended."""
    measured = Memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    measured.before = _status("VmRSS")
    yield measured
    measured.peak = _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> int:
    path = Path("/proc/self/status")
    if not path.exists():
        return 0
    return next(
        (int(line.split()[1]) * 1024 for line in path.read_text().splitlines() if line.startswith(name)), 0
    )

"""What a case did beside its work: programs started, files touched elsewhere, time and memory taken."""

import contextlib
import hashlib
import os
import resource
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture.children import Child
from torture.outcome import Outcome, memory

SECONDS, MEGABYTES = (
    2.0,
    1000.0,
)  # within which a refusal comes, of a core and beyond what is there at its start
PATIENCE = 40.0  # seconds by the clock; what has not ended then hangs
ROOM = 3 * 2**30  # bytes of address space for a case, so that a failing one takes no machine down
# Programs by which Pillow, torch and others do some of their work; most are not installed here.
HELPERS = (
    *("gs", "gswin32c", "gswin64c", "djpeg", "cjpeg", "ppmquant", "display", "xv", "eog", "gm", "xdg-open"),
    *("ffmpeg", "unzip", "tar", "gzip", "zcat", "curl", "wget", "git", "nvidia-smi", "ldconfig", "gcc", "cc"),
    *("sh", "bash", "env", "uname", "lscpu", "file", "which", "convert", "magick", "python", "python3"),
)
_RUNS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
    "pty.spawn",
)
_CHANGES = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown"),
    *("os.truncate", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Canaries:
    """A folder of programs that note their start and do nothing: the only PATH while a case runs."""

    def __init__(self, folder: Path) -> None:
        """Make one for every program that the real PATH has, and for some that it may lack."""
        self.folder, self._notes = folder / "bin", folder / "started"
        self.folder.mkdir(parents=True)
        self._notes.touch()
        self._notes.chmod(0o666)
        places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if place]
        there = {path.name for place in places if place.is_dir() for path in place.iterdir()}
        first = self.folder / "canary"
        first.write_text(f'#!/bin/sh\necho "$0 $*" >> {self._notes}\n')
        first.chmod(0o755)
        for name in there | set(HELPERS):
            os.link(first, self.folder / name)

    def take(self) -> list[str]:
        """Which were started since the last call, with their arguments."""
        started = self._notes.read_text(errors="replace").splitlines()
        os.truncate(self._notes, 0)
        return started


class Tree:
    """Everything below a folder as it was: kinds, sizes, rights, targets of links, digests of content."""

    def __init__(self, folder: Path, *, beside: tuple[Path, ...] = ()) -> None:
        """Look, but not into the folders `beside`, which may change."""
        self.folder, self._beside = folder, beside
        self._before = self._look()

    def changes(self) -> list[str]:
        """What is new, gone or another now, by its path in the folder."""
        now = self._look()
        names = sorted(name for name in {*self._before, *now} if self._before.get(name) != now.get(name))
        return [
            f"{name} {'is new' if name not in self._before else 'is gone' if name not in now else 'differs'}"
            for name in names
        ]

    def _look(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for place, folders, files in os.walk(self.folder):
            here = Path(place)
            folders[:] = [name for name in folders if here / name not in self._beside]
            for path in (here / name for name in (*folders, *files)):
                about = path.lstat()
                content: object = None
                if path.is_symlink():
                    content = path.readlink()
                elif stat.S_ISREG(about.st_mode):
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(self.folder))] = (about.st_mode, about.st_ino, content)
        return found


class Noted:
    """What Python did in this process: programs run, files changed outside of some folders, connections."""

    def __init__(self, *allowed: Path) -> None:
        """Python gives no way to take such a hook out again, so it can only be switched off."""
        self.on = False
        self.seen: list[str] = []
        self.ran: list[str] = []
        self._allowed = tuple(f"{folder.resolve()}{os.sep}" for folder in allowed)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _RUNS:
            self.ran.append(f"{event} {str(arguments[:2])[:200]}")
        elif event == "open" and isinstance(arguments[0], str | bytes) and _writes(arguments):
            self._note(event, arguments[0])
        elif event in _CHANGES:
            two = event in ("os.rename", "os.link", "shutil.move")
            folder = arguments[-1] if isinstance(arguments[-1], int) else -1
            for path in arguments[: 2 if two else 1]:
                self._note(event, path, folder if event != "os.rename" else -1)

    def _note(self, event: str, path: Any, folder: int = -1) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            name = Path(os.fsdecode(path))
            if folder > 2 and not name.is_absolute():  # shutil goes by open folders
                name = Path(f"/proc/self/fd/{folder}").readlink() / name
            # Links are not followed here: a link that was is seen by the digests of the tree.
            place = os.path.normpath(name.absolute())
            if place != os.devnull and not f"{place}{os.sep}".startswith(self._allowed):
                self.seen.append(f"{event} {place}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & _WRITING)


@dataclass
class Ended:
    """How a process ended that did one case."""

    code: int | None  # None: it hangs, and was killed
    said: str  # on both standard streams
    error: str  # a traceback, if an exception left it
    seconds: float = 0.0  # of a core
    megabytes: float = 0.0  # 10^6 bytes at most beyond those at the start


@dataclass
class Tally:
    """The figures of a row about refusals."""

    refused: int = 0
    hung: int = 0
    slowest: tuple[float, str] = (0.0, "none")
    largest: tuple[float, str] = (0.0, "none")
    programs: int = 0
    touched: int = 0
    bounded: bool = True  # whether seconds and megabytes of a refusal are bounded
    longest: int = field(default=4000)  # characters of the last line at most

    def take(self, outcome: Outcome, case: str, ended: Ended, codes: tuple[int, ...] = (0, 2)) -> None:
        """Add one case, whose losses go to the outcome."""
        outcome.cases += 1
        if ended.code is None:
            self.hung += 1
            outcome.lost(f"{case} hangs: {ended.said[-200:]}")
            return
        last = (ended.said.strip().splitlines() or [""])[-1]
        outcome.check(ended.code in codes, f"{case} ended with {ended.code}: {(ended.error or last)[-300:]}")
        if ended.code != 2:
            return
        self.refused += 1
        self.slowest = max(self.slowest, (ended.seconds, case))
        self.largest = max(self.largest, (ended.megabytes, case))
        outcome.check("digit: " in last, f"{case} was refused without a sentence: {last[-300:]}")
        outcome.check(len(last) <= self.longest, f"{case} was refused in {len(last):,} characters")
        if self.bounded:
            outcome.check(ended.seconds <= SECONDS, f"{case} was refused after {ended.seconds:.1f} s")
            outcome.check(ended.megabytes <= MEGABYTES, f"{case} took {ended.megabytes:,.0f} MB")

    def note(self, outcome: Outcome, case: str, *, programs: list[str], touched: list[str]) -> None:
        """Add what a case did beside its work."""
        self.programs, self.touched = self.programs + len(programs), self.touched + len(touched)
        outcome.check(not programs, f"{case} started {programs[:2]}")
        outcome.check(not touched, f"{case} touched {touched[:3]}")

    def figures(self) -> dict[str, float | int | str]:
        """For the table."""
        return {
            "refused": self.refused,
            "slowest refusal, s": self.slowest[0],
            "largest, MB": self.largest[0],
            "hangs": self.hung,
            "programs started": self.programs,
            "files touched outside": self.touched,
        }


def by_lot(cases: int, suite: Any, kinds: Mapping[Callable[[], Any], int]) -> Outcome:
    """`cases` of a suite, each kind by lot with its weight, and what they did beside their work.

    A kind makes the name of a case and what tries it, or None where it cannot be made. A suite has `draw`,
    the folders `given` and `out`, which are emptied each time, `canaries`, and the `tree` beside them.
    """
    outcome, tally = Outcome(), Tally()
    while outcome.cases < cases:
        _empty(suite)
        case = suite.draw.choices(list(kinds), list(kinds.values()))[0]()
        if case is not None:
            name, tried = case
            tally.take(outcome, name, tried())
            tally.note(outcome, name, programs=suite.canaries.take(), touched=suite.tree.changes())
    _empty(suite)
    outcome.figures = tally.figures()
    return outcome


def _empty(suite: Any) -> None:
    for place in (suite.out, suite.given):
        shutil.rmtree(place, ignore_errors=True)


def digit(
    *words: object,
    canaries: Canaries | None = None,
    uid: int | None = None,
    first: Callable[[], object] = lambda: None,
    **more: Any,
) -> Ended:
    """`digit WORDS` as a process of its own, its PATH the canaries, as the user `uid`; see `apart`.

    first: what the process does before, such as closing a stream.
    """
    from digit.__main__ import main

    def work() -> int:
        if canaries is not None:
            os.environ["PATH"] = str(canaries.folder)
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        first()
        _reopen_streams()
        sys.argv = ["digit", *map(str, words)]
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        return 0

    return apart(work, **more)


def _reopen_streams() -> None:
    """Standard streams as a new Python finds them: None where they are closed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
            errors = "backslashreplace" if number == 2 else "strict"
            stream: Any = open(number, "w" if number else "r", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        except OSError:
            stream = None
        setattr(sys, name, stream)


def apart(work: Any, *, seconds: float = PATIENCE, room: int = ROOM) -> Ended:
    """A function in a copy of this process, in bounds; both standard streams go into a file.

    Its result is the exit code. It is killed after `seconds`, and has `room` bytes of address space more.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as measured:

        def there(_: int) -> int:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            _reopen_streams()
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
            with memory() as taken:
                begun = resource.getrusage(resource.RUSAGE_SELF)
                try:
                    return work()
                finally:
                    for stream in (sys.stdout, sys.stderr):
                        with contextlib.suppress(OSError, ValueError, AttributeError):
                            stream.flush()
                    ended = resource.getrusage(resource.RUSAGE_SELF)
                    spent = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
                    os.write(measured.fileno(), f"{spent} {max(0, _peak() - taken.before)}".encode())

        child = Child(there, silent=False)
        try:
            code = child.wait(seconds)
            if code is None:
                child.kill()
            error = child.read().decode(errors="replace") if code == 70 else ""
        finally:
            child.close()
        said.seek(0)
        measured.seek(0)
        spent, took = (measured.read().decode().split() or ["0", "0"])[:2]
        text = said.read(4_000_000).decode(errors="backslashreplace")
        return Ended(code, text, error, float(spent), float(took) / 1e6)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

"""T22: valid files of every kind changed by their structure and sealed again, through all that reads them.

`python -m torture --only T22` runs it; `python -m torture.resealed 1234 --keep FOLDER` makes one case again,
leaves its files in FOLDER and says how it ends. A case is decided by its number and the seed.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from digit.errors import DigitError
from torture.children import Child
from torture.guard import MEGABYTES, PATIENCE, SECONDS, Canaries, Noted, Tree
from torture.outcome import About, Outcome, memory
from torture.readers import TARGETS, Specimens, check_said
from torture.specimens import make_specimens

ABOUT = About(
    what="artifacts, models, codes, trainings, samples, results, sweeps, marks, lists, caches, npz, pickles "
    "and pictures changed in types, sizes, names, shapes, offsets, nesting and values, and sealed again",
    goal="20,000 cases: accepted or one sentence, < 2 s of a core and 1 GB, nothing written outside, nothing "
    "run",
    full=20_000,
    short=400,
)
WORKERS = 2
ENOUGH = 2000  # cases of one worker, before what libraries have kept counts against its room
ROOM = int(1.5 * 2**30)  # bytes of address space that a worker gets beyond its start
# How refusals read that say what only happened because of that room.
_NO_ROOM = ("not enough memory", "allocate memory", "Unable to allocate", "MemoryError")


class Hung(BaseException):
    """A case takes no end."""


@dataclass(frozen=True)
class Case:
    """One case, and how it ended."""

    number: int
    target: str = ""
    place: str = ""  # the file that lies
    refused: bool = False
    seconds: float = 0.0  # of a core
    megabytes: float = 0.0  # at most, beyond what was there before it
    said: str = ""  # the sentence of a refusal
    loss: str = ""


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` cases by a few processes; the files of failures are kept in the system's temporary folder."""
    outcome = Outcome(cases)
    specimens = Specimens.of(make_specimens(folder / "specimens"))
    for target in TARGETS:  # what is valid is accepted, and all that readers import is there
        ended = one(target.name, specimens, folder / "work" / "valid", Noted(folder / "work"), change=False)
        outcome.check(
            not ended.loss and not ended.refused, f"{target.name}, as it is: {ended.loss or ended.said}"
        )
    canaries, kept = Canaries(folder / "canaries"), Path(tempfile.gettempdir()) / f"torture-T22-seed-{seed}"
    tree = Tree(folder, beside=(folder / "work", folder / "records"))
    done = _by_workers(cases, seed, specimens, folder, canaries, kept)
    for case in done:
        if case.loss:
            about = f"case {case.number} of seed {seed} ({case.target}: {case.place})"
            outcome.lost(
                f"{about}: {case.loss}; python -m torture.resealed {case.number} --seed {seed} repeats it"
            )
    programs, touched = canaries.take(), tree.changes()
    outcome.check(not programs, f"programs were started: {programs[:5]}")
    outcome.check(not touched, f"files were touched outside: {touched[:5]}")
    outcome.check(len(done) == cases, f"{cases - len(done)} cases have no end")
    refused = [case for case in done if case.refused]
    outcome.figures = {
        "seed": seed,
        "kinds": len(Counter(case.target for case in done)),
        "refused": len(refused),
        "slowest refusal, s": max((case.seconds for case in refused), default=0.0),
        "largest, MB": max((case.megabytes for case in refused), default=0.0),
        "hangs": sum("no end" in case.loss for case in done),
        "programs started": len(programs),
        "files touched outside": len(touched),
    }
    return outcome


def _by_workers(
    cases: int, seed: int, specimens: Specimens, folder: Path, canaries: Canaries, kept: Path
) -> list[Case]:
    """All cases, in processes that are replaced when one ends or takes no end."""
    (folder / "records").mkdir()
    left = [list(range(i, cases, WORKERS)) for i in range(WORKERS)]
    children: list[Child | None] = [None] * WORKERS
    done: list[Case] = []
    while any(left) or any(children):
        for i in range(WORKERS):
            records = folder / "records" / f"{i}.jsonl"
            child = children[i]
            if child is None and left[i]:
                records.write_text("")
                begin = _worker(
                    left[i][:ENOUGH], seed, specimens, folder / "work" / str(i), canaries, kept, records
                )
                children[i] = Child(begin)
            elif child is not None and child.wait(0.05) is None:
                if time.time() - records.stat().st_mtime > 3 * PATIENCE:
                    child.kill()
            elif child is not None:
                found = [Case(**json.loads(line)) for line in records.read_text().splitlines()]
                found += _gone(left[i][len(found)], child) if child.code else []
                done += found
                left[i] = left[i][len(found) :]
                child.close()
                children[i] = None
    return sorted(done, key=lambda case: case.number)


def _gone(number: int, child: Child) -> list[Case]:
    """The case at which a worker ended."""
    said = child.read().decode(errors="replace")[-300:]
    return [Case(number, loss=f"the process ended with {child.code}, or took no end and was killed {said}")]


def _worker(
    numbers: list[int],
    seed: int,
    specimens: Specimens,
    work: Path,
    canaries: Canaries,
    kept: Path,
    records: Path,
) -> Any:
    """A function for a process that does the cases of these numbers, one after the other."""

    def there(_: int) -> int:
        os.environ["PATH"] = str(canaries.folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        noted = Noted(work)
        with records.open("a") as file:
            for number in numbers:
                case = one(number, specimens, work, noted, seed=seed)
                if case.loss:
                    shutil.copytree(work, kept / str(number), dirs_exist_ok=True, symlinks=True)
                file.write(json.dumps(asdict(case)) + "\n")
                file.flush()
        return 0

    return there


def one(
    number: int | str,
    specimens: Specimens,
    work: Path,
    noted: Noted,
    *,
    seed: int = 0,
    change: bool = True,
    show: bool = False,
) -> Case:
    """Make case `number` in the folder `work` and read it; a target's name in place of a number takes that.

    change: let it lie. show: print where an exception comes from.
    """
    draw = random.Random(f"{seed} {number}")
    target = draw.choices(TARGETS, [each.weight for each in TARGETS])[0]
    target = next((each for each in TARGETS if each.name == number), target)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    source = draw.choice(sorted(specimens.folder.glob(target.of)))
    place = work / source.name
    shutil.copytree(source, place)
    case = Case(number if isinstance(number, int) else -1, target.name)
    try:
        if change:
            case = replace(case, place=target.change(place, draw))
    except Exception:  # whatever stopped the change, a case that was not tried is a loss
        return replace(case, loss=f"the case could not be made: {traceback.format_exc()[-500:]}")
    noted.seen, noted.ran = [], []
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    refused, said, loss = False, "", ""
    begun = time.process_time()
    with memory() as taken:
        try:
            noted.on = True
            with contextlib.redirect_stderr(io.StringIO()):
                target.read(place, specimens)
        except DigitError as error:
            refused, said = True, str(error)
        except BaseException as error:  # a reader answers with a value or a DigitError; all else is a loss
            noted.on = False
            if show:
                traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            loss = f"{type(error).__name__}: {str(error)[:200]!r} at {where.filename[-40:]}:{where.lineno}"
        finally:
            noted.on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.process_time() - begun
    return replace(
        case, refused=refused, said=said[:300], seconds=seconds, megabytes=taken.growth,
        loss=loss or _loss(said, seconds, taken.growth, noted),
    )  # fmt: skip


def _loss(said: str, seconds: float, megabytes: float, noted: Noted) -> str:
    """What should not have happened in a case that was accepted or refused; "" if nothing did."""
    if noted.ran:
        return f"it ran {noted.ran[:2]}"
    if noted.seen:
        return f"it touched {noted.seen[:2]}"
    if seconds > SECONDS:
        return f"it took {seconds:.1f} s"
    if megabytes > MEGABYTES or any(words in said for words in _NO_ROOM):
        return f"it took {megabytes:,.0f} MB, {said[:200]}"
    try:
        check_said(said)
    except RuntimeError as error:
        return f"a refusal is no sentence: {error}: {said[:200]!r}"
    return "" if "\n" not in said.strip() else f"a refusal of several lines: {said[:200]!r}"


def _alarm(*_: object) -> None:
    raise Hung(f"no end after {PATIENCE:.0f} s")


def main() -> int:
    """Make cases again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("number", type=int, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files of the cases")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-T22-") as folder:
        with contextlib.redirect_stdout(sys.stderr):
            specimens = Specimens.of(make_specimens(Path(folder) / "specimens"))
        for number in options.number:
            work = (options.keep or Path(folder) / "work") / str(number)
            case = one(number, specimens, work, Noted(work), seed=options.seed, show=True)
            print(json.dumps(asdict(case), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

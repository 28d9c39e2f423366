"""python -m torture [--only T9 T10] [--short] [--cases N] [--results results.json] [--out page.md]

Runs the tests one after another, each in a process of its own, and prints a table of what was done, how often
and what was lost. --results keeps the figures of each test as JSON, also of those that were not run this
time; --out writes the table between two marks of a page. Exit code 1 if anything was lost.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # and no thread: processes are copied while they run
os.environ.setdefault("MPLBACKEND", "Agg")

import torch

from digit.files import read_json, write_json_atomic, write_text_atomic
from digit.nn.backbone import timm
from torture import (
    archives,
    asking,
    bombs,
    checkpoints,
    crowd,
    flipped_bytes,
    killed_saving,
    killed_together,
    killed_training,
    lying_servers,
    newest_state,
    not_finite,
    pictures,
    planted,
    printed,
    refusing_disks,
    resealed,
    resumed,
    sampling,
    signals,
    world_sizes,
    writers,
)
from torture.children import Child
from torture.outcome import Outcome
from torture.page import dated, machine, row, table

TESTS: dict[str, ModuleType] = {
    "T1": killed_training,
    "T2": killed_saving,
    "T3": resumed,
    "T4": world_sizes,
    "T5": signals,
    "T6": newest_state,
    "T7": refusing_disks,
    "T8": not_finite,
    "T9": pictures,
    "T10": flipped_bytes,
    "T11": archives,
    "T12": checkpoints,
    "T13": bombs,
    "T15": sampling,
    "T18": crowd,
    "T19": killed_together,
    "T22": resealed,
    "T23": planted,
    "T24": asking,
    "T25": lying_servers,
    "T26": writers,
    "T27": printed,
}
LIMIT = 3600  # seconds for one test, and then it hangs


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=TESTS, default=list(TESTS))
    parser.add_argument("--short", action="store_true", help="few cases each")
    parser.add_argument("--cases", type=int, help="another number of cases")
    parser.add_argument("--results", type=Path, help="JSON of all rows, added to")
    parser.add_argument("--out", type=Path, help="page whose table is written anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    timm()  # else each process would import it by itself
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts with & ignore it
    lost, kept = 0, _kept(options.results)
    for name in options.only:
        about = TESTS[name].ABOUT
        cases = options.cases or (about.short if options.short else about.full)
        result = run(name, cases)
        lost += len(result["losses"])
        print(row(name, result), flush=True)
        for sentence in result["losses"][:20]:
            print(f"  {sentence}", flush=True)
        kept = (_kept(options.results) if options.results else kept) | {name: result}
        if options.results:
            write_json_atomic(options.results, {"machine": machine(), "tests": _sorted(kept)})
    print(table(_sorted(kept)))
    if options.out:
        write_text_atomic(
            options.out, between_marks(options.out.read_text(encoding="utf-8"), table(_sorted(kept)))
        )
    return 1 if lost else 0


def run(name: str, cases: int) -> dict[str, Any]:
    """One test in a process of its own, whose end by a signal or by time is a loss too."""
    about, day = TESTS[name].ABOUT, dated()
    begun, used = time.monotonic(), _processor()
    with tempfile.TemporaryDirectory(prefix=f"torture-{name}-") as folder:
        place = Path(folder)

        def work(_: int) -> int:
            (place / "work").mkdir()
            outcome = TESTS[name].run(cases, place / "work")
            write_json_atomic(place / "outcome.json", asdict(outcome))
            return 0

        child = Child(work)
        try:
            code = child.wait(LIMIT)
            said = child.read().decode(errors="replace") if code else ""
        finally:
            child.close()
        done = place / "outcome.json"
        outcome = read_json(done) if done.exists() else asdict(Outcome())
        if code != 0 or not done.exists():
            last = said.strip().splitlines()[-1:] or [""]
            outcome["losses"].append(f"the test itself ended with {code} {last[0]}")
            print(said, file=sys.stderr)
    times = {"seconds": time.monotonic() - begun, "processor_seconds": _processor() - used}
    return {"what": about.what, "goal": about.goal, **day, **times, **outcome}


def _processor() -> float:
    """Seconds of a core that ended processes have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _kept(path: Path | None) -> dict[str, Any]:
    """The rows of earlier runs."""
    return read_json(path)["tests"] if path and path.exists() else {}


def _sorted(kept: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(kept.items(), key=lambda item: int(item[0][1:])))


def between_marks(page: str, lines: str) -> str:
    """The page with other lines between its two marks."""
    before, _, rest = page.partition(
        "<!-- table: python -m torture writes the lines between these marks -->\n"
    )
    _, _, after = rest.partition("\n<!-- end -->")
    assert rest and after, "the page lacks its marks"
    mark = "<!-- table: python -m torture writes the lines between these marks -->"
    return f"{before}{mark}\n\n{lines}\n\n<!-- end -->{after}"


if __name__ == "__main__":
    sys.exit(main())

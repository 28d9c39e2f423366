"""Parts as processes on one device or several: those that are ready start in order, some on each at once."""

import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from devices import environment, freest
from measuring.plan import Part

from digit.files import read_json, write_json_atomic
from digit.progress import say

RESERVE = 60.0  # seconds at the end in which sweeps stop, so that their best settings are still drawn
START = 20.0  # seconds that a process needs before it measures anything


class Desk:
    """What is done, in files that outlive the process."""

    def __init__(self, out: Path) -> None:
        """Of the run in `out`."""
        self.out, self.logs = out / "done", out / "logs"
        self.out.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)

    def done(self, name: str) -> bool:
        """Whether a part is finished; codes also have to be there, since they are not carried about."""
        there = not name.startswith("codes-") or (self.out.parent / name / "meta.json").exists()
        return there and (self.out / f"{name}.json").exists()

    def finish(self, name: str, seconds: float) -> None:
        """A part is done; what was drawn from an unfinished sweep is to be drawn again."""
        write_json_atomic(self.out / f"{name}.json", {"seconds": round(seconds, 1)})
        if name.startswith("sweep-"):
            (self.out / f"{name.replace('sweep', 'winners', 1)}.json").unlink(missing_ok=True)

    def seconds(self) -> dict[str, float]:
        """Of every part that is done."""
        return {path.stem: read_json(path)["seconds"] for path in sorted(self.out.glob("*.json"))}


def side_by_side(
    parts: Sequence[Part],
    desk: Desk,
    command: Callable[[str, float], list[str]],
    *,
    devices: int = 1,
    workers: int,
    deadline: float,
    landed: Callable[[str], None],
) -> dict[str, str]:
    """Run parts that are not done, at most `workers` on each device; what became of the others, by name.

    `command(name, seconds)` is a part's command line, `deadline` of time.monotonic(); `landed` hears of each
    that is done. A part that fails does not stop the others; one whose needs failed does not start.
    """
    waiting = [part for part in parts if not desk.done(part.name)]
    running: dict[str, tuple[subprocess.Popen[bytes], float, int]] = {}
    failed: dict[str, str] = {}
    stopped: set[str] = set()  # sweeps that ran out of time: their rows so far count
    while waiting or running:
        left = deadline - time.monotonic()
        for part in list(waiting):
            place = freest([place for _, _, place in running.values()], devices, workers=workers)
            if any(need in failed for need in part.needs):
                failed[part.name] = f"{', '.join(n for n in part.needs if n in failed)} did not end well"
                waiting.remove(part)
            elif _late(part, left):
                failed[part.name] = "no time was left"
                waiting.remove(part)
            elif place is not None and _ready(part, desk, stopped):
                waiting.remove(part)
                env = environment(place, processes=devices * workers)
                with (desk.logs / f"{part.name}.log").open("ab") as log:
                    started = subprocess.Popen(command(part.name, left), stdout=log, stderr=log, env=env)
                running[part.name] = started, time.monotonic(), place
                say(f"{part.name}: started on device {place}, {left:.0f} s left")
        if not running and waiting:  # nothing that could make them ready
            return failed | {part.name: "what it needs is not there" for part in waiting}
        time.sleep(0.2)
        for name, (process, start, _) in list(running.items()):
            code, seconds = process.poll(), time.monotonic() - start
            ends = deadline - (RESERVE if name.startswith("sweep-") else 0)
            if code is None and time.monotonic() > ends:
                process.terminate()
                process.wait()
                code = -1
            if code is None:
                continue
            del running[name]
            if code == 0:
                desk.finish(name, seconds)
                say(f"{name}: done in {seconds:.0f} s, {deadline - time.monotonic():.0f} s left")
                landed(name)
            elif code == -1 and name.startswith("sweep-"):
                stopped.add(name)
                say(f"{name}: stopped after {seconds:.0f} s, to leave time for its best settings")
            else:
                why = "its time was up" if code == -1 else f"code {code}, see logs/{name}.log"
                failed[name] = why
                say(f"{name}: ended after {seconds:.0f} s: {why}")
    return failed | dict.fromkeys(stopped, "some cells are left")


def _ready(part: Part, desk: Desk, stopped: Collection[str]) -> bool:
    return all(desk.done(need) or need in stopped for need in part.needs)


def _late(part: Part, left: float) -> bool:
    spare = left - (RESERVE if part.name.startswith("sweep-") else 0)
    return spare < START + min(10.0, part.seconds / 2)

"""Commands that wait for files of one another, a few at once on each device."""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devices import environment, freest

from digit.progress import say


@dataclass(frozen=True)
class Task:
    """A command, and when it may start."""

    name: str
    command: Sequence[str]
    needs: str | None = None  # name of the task that must be done before
    done: Callable[[], bool] = field(default=lambda: False)  # whether there is nothing to do


def side_by_side(
    tasks: Sequence[Task], *, devices: int, workers: int, left: Callable[[], float], logs: Path
) -> list[str]:
    """At most `workers` processes on each device, in the tasks' order; a sentence for each that is not done.

    `left` gives the seconds until all must end; commands end by themselves, as they are told.
    """
    waiting = [task for task in tasks if not task.done()]
    running: dict[str, tuple[Task, subprocess.Popen[bytes], int, float]] = {}
    missing: list[str] = []
    logs.mkdir(parents=True, exist_ok=True)
    while waiting or running:
        undone = {task.name for task in waiting} | running.keys() | {line.split(":")[0] for line in missing}
        for task in [task for task in waiting if task.needs not in undone and left() > 5]:
            place = freest([place for _, _, place, _ in running.values()], devices, workers=workers)
            if place is None:
                break
            waiting.remove(task)
            with (logs / f"{task.name.replace(':', '-')}.log").open("a") as log:
                env = environment(place, processes=devices * workers)
                process = subprocess.Popen(task.command, stdout=log, stderr=log, env=env)
            running[task.name] = task, process, place, time.monotonic()
        if not running:
            missing += [f"{task.name}: not begun, repeat the command" for task in waiting]
            return missing
        time.sleep(0.3)
        for name, (_, process, place, started) in list(running.items()):
            if (code := process.poll()) is None:
                continue
            del running[name]
            ended = "done" if code == 0 else f"ended with code {code}"
            seconds = time.monotonic() - started
            say(f"{name}: {ended} after {seconds:.0f} s on device {place}, {left():.0f} s left")
            if code != 0:
                missing.append(f"{name}: unfinished, see {logs.name}/{name.replace(':', '-')}.log")
    return missing

"""What a run says of itself: log.jsonl, status.json, a progress bar or plain lines, loss.png, trackers."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from PIL import Image

from digit.distributed import is_main
from digit.entries import Number, Text, entries, parsed
from digit.figure import new_figure, save_figure
from digit.files import open_to_append, read_json, write_json_atomic, write_text_atomic
from digit.opening import read_file
from digit.progress import Bar
from digit.training.trackers import Trackers

# What each line of a training has; the other names are measurements, which loss.png shows.
OWN = {
    *("step", "loss", "lr", "grad_norm", "samples_per_second", "seconds", "eta_seconds"),
    *("memory_gb", "stall", "save_seconds", "tflops", "mfu", "event"),
}

PLOT_INTERVAL = 20.0  # seconds between two drawings of loss.png, each of which takes a part of one


_STATUS: dict[str, Any] = {"step": Number, "steps": Number, "reason": Text, "seconds": float}  # status.json


class Log:
    """The log of the run in `out` from `step` on; later records, of work done again, are cut off.

    Of several processes the main one writes and speaks; in the others nothing here does anything.
    """

    def __init__(
        self,
        out: Path,
        *,
        step: int,
        steps: int,
        title: str = "train",
        progress: bool = True,
        trackers: Sequence[str] = (),
        measures_again: bool = False,
    ) -> None:
        """Open log.jsonl for appending, and trackers by their names; DigitError if one is not installed.

        `measures_again`: the measurements of `step` itself are to come, and cut off as well.
        """
        self.path = out / "log.jsonl"
        self._steps, self._title = steps, title
        self._file = None
        if is_main():
            self._file = _opened(self.path, step, measures_again)
        self._trackers = Trackers(trackers if is_main() else (), out, step)
        self._last_plot = time.monotonic()
        self._bar = Bar(title, steps, done=step, shown=progress)

    def __enter__(self) -> "Log":
        """Show the bar."""
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files and take the bar down."""
        self._bar.__exit__()
        self._trackers.close()
        if self._file:
            self._file.close()

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Add one line of numbers; a number that is not finite is written as null."""
        clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._write({"step": step, **clean})
        self._trackers.record(step, values)
        self._show(step, values)

    def picture(self, step: int, image: Image.Image) -> None:
        """Show samples of this step to the trackers."""
        self._trackers.picture(step, image)

    def event(self, step: int, message: str) -> None:
        """Add one line of text, such as a warning, and show it."""
        self._write({"step": step, "event": message})
        self._bar.say(f"{self._title}: {message}")

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._bar(step - self._bar.done)

    def plot(self, *, now: bool = False) -> None:
        """Draw loss.png anew, if the last drawing is old or `now` is set."""
        if self._file and (now or time.monotonic() - self._last_plot >= PLOT_INTERVAL):
            self._last_plot = time.monotonic()
            draw(read(self.path), self.path.with_name("loss.png"))

    def _write(self, record: Mapping[str, Any]) -> None:
        if not self._file:
            return
        line = (json.dumps(record) + "\n").encode()
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            error.filename = str(self.path)  # a write does not say where it failed
            raise

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        if "loss" not in values:
            text = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
            self._bar.say(f"{self._title}: {step}/{self._steps}, {text}")
            return
        extra = "".join(f"  {name} {value:.4g}" for name, value in values.items() if name not in OWN)
        note = f"loss {values['loss']:.4f}{extra}  lr {values['lr']:.2e}"
        note += f"  {values['samples_per_second']:,.0f}/s"
        if "tflops" in values:
            note += f"  {values['tflops']:.3g} TFLOP/s"
        if "mfu" in values:
            note += f" (MFU {values['mfu']:.1%})"
        if values.get("stall", 0.0) >= 0.01:
            note += f"  waiting for data {values['stall']:.0%}"
        self._bar.note(note, now=step >= self._steps)


class Pace:
    """Where the time since the last line of losses went."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Another line begins now."""
        self._mark = time.monotonic()
        self.updates = 0
        self.aside = 0.0  # seconds that were not training
        self.waited = 0.0  # seconds in `data`
        self.held = 0.0  # seconds for which saving held training up

    @contextlib.contextmanager
    def timed(self, *names: str) -> Iterator[None]:
        """Add the seconds inside to these of the three."""
        begun = time.monotonic()
        try:
            yield
        finally:
            for name in names:
                setattr(self, name, getattr(self, name) + time.monotonic() - begun)

    def values(self, *, batch: int, left: int) -> dict[str, float]:
        """Speed and stalls for the log, where `left` updates of `batch` samples are to come."""
        trained = max(1e-9, time.monotonic() - self._mark - self.aside)
        per_update = max(1e-9, trained / max(1, self.updates))
        return {
            "samples_per_second": batch / per_update,
            "stall": self.waited / trained,
            "save_seconds": self.held,
            "eta_seconds": left * per_update,
        }


def read(path: str | Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl, without lines that a killed process left unfinished; [] without a file."""
    if not Path(path).exists():
        return []
    records = []
    for line in read_file(path).decode(errors="replace").splitlines():
        try:
            record = parsed(line.encode())
        except ValueError:
            continue
        if _is_record(record):
            records.append(record)
    return records


def _is_record(record: Any) -> bool:
    """Whether it is what a run says: a step, and numbers by names or a text that is called event."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("step"), int)
        and all(
            isinstance(value, str if name == "event" else int | float | None) and not isinstance(value, bool)
            for name, value in record.items()
        )
    )


def _opened(path: Path, step: int, measures_again: bool) -> FileIO:
    """The log with the records up to `step`, for appending; it has no buffer: a line is there or failed."""
    kept = [
        record
        for record in read(path)
        if record["step"] < step
        or (record["step"] == step and ("loss" in record or "event" in record or not measures_again))
    ]
    write_text_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))
    return open_to_append(path)


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Draw loss.png from the records of log.jsonl; nothing is written before there are two losses."""
    losses = [(record["step"], record["loss"]) for record in records if record.get("loss") is not None]
    if len(losses) < 2:
        return
    names = sorted({name for record in records if "loss" not in record for name in record} - OWN)[:5]
    figure = new_figure(8, 3 + 1.6 * len(names))
    panels = figure.subplots(1 + len(names), 1, sharex=True, squeeze=False)[:, 0]
    steps, values = zip(*losses, strict=True)
    panels[0].plot(steps, values, linewidth=0.6, alpha=0.4, color="tab:blue")
    panels[0].plot(steps, _smooth(list(values)), linewidth=1.4, color="tab:blue")
    panels[0].set_ylabel("loss")
    for panel, name in zip(panels[1:], names, strict=True):
        points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
        panel.plot(*zip(*points, strict=True), marker=".", color="tab:orange")
        panel.set_ylabel(name)
    panels[-1].set_xlabel("updates")
    save_figure(figure, path)


def _smooth(values: list[float]) -> list[float]:
    """A running mean that forgets with a time constant of a twentieth of the curve."""
    keep = 1 - 1 / max(1.0, len(values) / 20)
    smoothed, mean = [], values[0]
    for value in values:
        mean = keep * mean + (1 - keep) * value
        smoothed.append(mean)
    return smoothed


@dataclass(frozen=True)
class Status:
    """How far a run came, and why it ended there."""

    step: int  # finished updates
    steps: int  # updates in all
    reason: str  # "finished", "running", "interrupted" or "wall-clock limit"
    seconds: float  # training time so far, over all resumptions

    @property
    def finished(self) -> bool:
        """Whether all updates are done and the last artifact is written."""
        return self.reason == "finished" and self.step >= self.steps


def write_status(out: Path, status: Status) -> None:
    """Write status.json into the run's folder."""
    write_json_atomic(out / "status.json", {**asdict(status), "finished": status.finished}, checksum=True)


def read_status(out: str | Path) -> Status | None:
    """The status of the run in `out`, or None where none was written."""
    path = Path(out) / "status.json"
    if not path.exists():
        return None
    value = entries(read_json(path), _STATUS, where=path, remedy="delete it and run again")
    return Status(value["step"], value["steps"], value["reason"], float(value["seconds"]))

"""One loop for every stage: a stage is an nn.Module with `loss(batch) -> scalar`, and no more is asked.

Resuming is running the same command again: the newest whole state under out/state is taken up, and a finished
run returns at once. Each update seeds torch's generators from (seed, step), and data is a function of the
step, so that a run in one piece and a run in many are the same run: bit for bit on a CPU.

Of several processes each runs this loop; the main one writes. Before each update they agree whether to go on.
"""

import contextlib
import enum
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from digit.calls import checked
from digit.distributed import (
    any_of,
    by_main,
    from_main,
    handled,
    is_lost,
    is_main,
    largest,
    raise_in_all,
    world_size,
)
from digit.errors import DigitError
from digit.files import atomic_file, clean_up
from digit.nn.checks import check_device
from digit.training import checkpoint
from digit.training.config import TrainConfig
from digit.training.interrupt import Interrupts
from digit.training.log import Log, Pace, Status, read_status, write_status
from digit.training.optimizer import warm_up_warning
from digit.training.save import OnSave, Saver, Twin, Writer
from digit.training.update import Updater

Evaluate = Callable[[nn.Module, int], Iterable[tuple[str, float]]]
Picture = Callable[[nn.Module, int], Image.Image]


class Stop(enum.IntEnum):
    """Why a run stops before an update; of several processes' reasons the largest counts."""

    NO = 0
    LIMIT = 1  # of the wall clock
    INTERRUPTED = 2  # Ctrl-C
    TERMINATED = 3  # SIGTERM
    FAILED = 4  # the main process could not write


SIGNALS = {signal.SIGINT: Stop.INTERRUPTED, signal.SIGTERM: Stop.TERMINATED}


@checked
def train(
    stage: nn.Module,
    data: Callable[[int], Any],
    config: TrainConfig,
    out: str | Path,
    *,
    evaluate: Evaluate | None = None,
    picture: Picture | None = None,
    on_save: OnSave | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    title: str = "train",
    told: Sequence[str] = (),
) -> nn.Module:
    """Train `stage` on data(0), data(1), ...; the stage in eval mode, with the averaged weights if any.

    data(step) returns a batch on `device`: of several processes each gives its own rows, as CodeData does.

    `out` gets state/, log.jsonl, loss.png, status.json and samples/step-*.png. Besides loss and learning rate
    the log has `stall`, the share of the time that was spent waiting in data(); `save_seconds`, the time for
    which saving held training up since the line before; and `tflops` and `mfu`, the speed of the matrix
    products of loss and gradient (see training/flops.py for what counts).

    evaluate and picture get the stage in eval mode with the averaged weights, without gradients and without
    autocast. on_save gets such a stage too, a copy on the CPU, and the path of the state just written; it
    runs in a thread beside the training, in the main process. At the wall-clock limit the run is saved and
    returned unfinished: see `read_status(out)`.

    `told` are sentences that go into the log first, such as what is not as when the run began.

    An update whose loss or gradient is not finite is skipped. DigitError when several in a row are (`skips`),
    when another process trains in `out`, when its states are of another model, or when a state cannot be
    written: the state before is intact. On Ctrl-C or SIGTERM the state is saved and KeyboardInterrupt raised
    (Terminated for SIGTERM).
    """
    out, started = Path(out), time.monotonic()
    place = check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(by_main(_own(out)))
        # the caller's randomness goes on as if nothing had happened
        stack.enter_context(torch.random.fork_rng([place] if place.type == "cuda" else []))
        twin = Twin(stage) if on_save and is_main() else None
        updater = Updater(stage, config, place)
        events = [*told]
        found = checkpoint.newest_of_main(out / "state", warn=events.append)
        if found:
            events += updater.restore(found)
        if warning := warm_up_warning(config.optimizer, config.steps):
            events.append(warning)
        before = read_status(out)
        if from_main(updater.step < config.steps or before is None or not before.finished):
            if found:
                events.append(f"resumed from {found.path.name}")
            log = Log(
                out,
                step=updater.step,
                steps=config.steps,
                title=title,
                progress=progress,
                trackers=config.tracker,
                measures_again="evaluate" in updater.duties,
            )
            stack.enter_context(log)
            for message in events:
                log.event(updater.step, message)
            interrupts = Interrupts()
            stack.enter_context(handled(interrupts.handle))
            # Leaving it waits for what is being written; the error that ends the run stays the first.
            writer = Writer(stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="digit-writer")))
            last, sharded = updater.step if found else None, updater.sharded
            saver = Saver(out / "state", writer, config.keep, last, on_save, twin, log.plot, sharded=sharded)
            for message in updater.accelerate(stack):
                log.event(updater.step, message)
            _Run(updater, config, out, log, evaluate, picture, saver, interrupts, started).go(data)
        updater.take_average()
    return stage.eval()


@contextlib.contextmanager
def _own(out: Path) -> Iterator[None]:
    """Keep the run's folder for this process, without what a killed one left half written."""
    with checkpoint.hold(out / "state"):
        for folder in (out, out / "samples"):
            clean_up(folder)
        yield


@dataclass
class _Run:
    """One process's part of a run: what happens between updates."""

    updater: Updater
    config: TrainConfig
    out: Path
    log: Log
    evaluate: Evaluate | None
    picture: Picture | None
    saver: Saver
    interrupts: Interrupts
    started: float  # time.monotonic() when this process began
    failed: DigitError | OSError | None = None  # what the disk refused, until all processes know
    first: bool = True  # no update yet in this process
    pace: Pace = field(default_factory=Pace)

    def go(self, data: Callable[[int], Any]) -> None:
        """Update until the last step, the wall-clock limit or a signal."""
        try:
            self._go(data)
        except RuntimeError as error:
            if not is_lost(error):
                raise
            # A process that ends breaks what the others wait for, and torchrun then sends them SIGTERM.
            for _ in range(50):
                if self.interrupts.signal is not None:
                    self._status("interrupted")
                    self.interrupts.check()
                time.sleep(0.1)
            raise DigitError(
                "another process of this training has ended: see what it said and repeat the command"
            ) from error

    def _go(self, data: Callable[[int], Any]) -> None:
        updater, steps = self.updater, self.config.steps
        self.pace.begin()
        with self._writing():
            self._status("running")
        while True:
            self._duties()  # also those that an interruption left undone
            if self.saver.step != updater.step and (
                updater.step == steps or _due(updater.step, self.config.save_every)
            ):
                self._save()
            batch = self._next(data) if updater.step < steps else None
            stop = self._agreed()
            if stop is not Stop.NO:
                self._leave(stop)
                return
            if updater.step == steps:
                break
            self._update(batch)
        self._save()  # what is there is not written again
        with self._writing():
            self.saver.writer.wait()
            self._status("finished")
        self._agreed()
        self.interrupts.check()

    def _next(self, data: Callable[[int], Any]) -> Any:
        """The next batch; None if a signal came."""
        with self.pace.timed("waited"):
            batch = self.interrupts.attempt(lambda: data(self.updater.step))
        if self.first and batch is not None:
            with self.pace.timed("aside"):
                # Not broken off: between two lines it could leave the stage's tensors on the meta device.
                self.updater.count(batch)
        return batch

    def _update(self, batch: Any) -> None:
        """Update, and what is due after it; only when something is, the device is waited for."""
        updater, config, first = self.updater, self.config, self.first
        self.first = False
        nothing_to_lose = self.saver.step == updater.step or (self.saver.step is None and updater.step == 0)
        if first and nothing_to_lose:  # compiling takes a minute: it need not be waited for
            self.interrupts.attempt(lambda: updater.update(batch))
            if updater.busy:
                self._leave(Stop.INTERRUPTED)
        else:
            updater.update(batch)
        step = updater.step
        last = step == config.steps
        self.pace.updates += 1
        self.log.advance(step)
        if self.evaluate and (last or _due(step, config.evaluate_every)):
            updater.duties.append("evaluate")
        if self.picture and (last or _due(step, config.sample_every)):
            updater.duties.append("picture")
        if last or _due(step, config.log_every):
            self._log_losses()

    def _agreed(self) -> Stop:
        """Whether and why to stop here: the same in all processes. Raises what the disk refused, in all."""
        with self._writing():
            self.saver.writer.check()
        limit = self.config.wall_clock_limit
        late = limit is not None and time.monotonic() - self.started >= limit
        reason = Stop.LIMIT if late else Stop.NO
        if self.failed:
            reason = Stop.FAILED
        elif self.interrupts.signal is not None:
            reason = SIGNALS[signal.Signals(self.interrupts.signal)]
        reason = Stop(largest(reason))
        if reason is Stop.FAILED:
            raise_in_all(self.failed)
        for number, meant in SIGNALS.items():
            if reason is meant and self.interrupts.signal is None:
                self.interrupts.signal = number
        return reason

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What the disk refuses inside stops the run: of several processes, where they next agree."""
        try:
            yield
        except (DigitError, OSError) as error:
            if world_size() == 1:
                raise
            self.failed = self.failed or error

    def _log_losses(self) -> None:
        self.updater.read_losses(self._last_good())
        updater, config = self.updater, self.config
        pace = self.pace.values(batch=config.batch, left=config.steps - updater.step)
        values = updater.take_means() | {"lr": updater.lr, "seconds": self._seconds()} | pace
        values |= updater.speed(pace["samples_per_second"]) | updater.metrics()
        with self._writing():
            self.log.record(updater.step, values)
        self.pace.begin()

    def _duties(self) -> None:
        """Measure and draw what is due, in all processes; each is struck off once it is on the disk.

        What a signal breaks off stays due. All processes come to all of it: shards are gathered for each.
        """
        step, evaluate, picture = self.updater.step, self.evaluate, self.picture
        for duty in list(self.updater.duties):
            self.updater.read_losses(self._last_good())
            with self.pace.timed("aside"), self.updater.measuring() as stage:
                if duty == "evaluate" and evaluate:
                    values = self.interrupts.attempt(
                        lambda: {name: float(value) for name, value in evaluate(stage, step)}
                    )
                    if values is None:
                        continue
                    with self._writing():
                        self.log.record(step, values)
                if duty == "picture" and picture:
                    image = self.interrupts.attempt(lambda: picture(stage, step))
                    if image is None:
                        continue
                    if is_main():
                        path = self.out / "samples" / f"step-{step:06d}.png"
                        with self._writing(), atomic_file(path) as file:
                            image.save(file, format="png")
                        self.log.picture(step, image)
            self.updater.duties.remove(duty)

    def _save(self) -> None:
        """Copy the state, which is then written beside the training."""
        self.updater.read_losses(self._last_good())
        self.updater.check_weights(self._last_good())
        with self.pace.timed("aside", "held"):
            with self._writing():
                self.saver.writer.wait()
            if any_of(self.failed is not None):
                return  # the processes would not all come to gather what they hold
            with self._writing():
                self.saver.save(self.updater, self._seconds())

    def _leave(self, stop: Stop) -> None:
        """Save and go: the same command takes the run up from here. KeyboardInterrupt after a signal."""
        reason = "wall-clock limit" if stop is Stop.LIMIT else "interrupted"
        if not self.updater.busy:
            self._save()
        with self._writing():
            if self.updater.busy:  # broken off in an update: what is on the disk is of the step before
                self.saver.amend(self.updater, self._seconds())
            self.saver.writer.wait()
            self._status(reason)
            done = "nothing new to save" if self.updater.busy else "saved unfinished"
            self.log.event(self._step(), f"{reason}: {done}, run the same command again to go on")
        if not self.updater.busy:
            self._agreed()
        self.interrupts.check()

    def _status(self, reason: str) -> None:
        if reason != "running":
            self.log.plot(now=True)
        if is_main():
            write_status(self.out, Status(self._step(), self.config.steps, reason, self._seconds()))

    def _step(self) -> int:
        """Finished updates."""
        return (self.saver.step or 0) if self.updater.busy else self.updater.step

    def _seconds(self) -> float:
        return self.updater.seconds + time.monotonic() - self.started

    def _last_good(self) -> str:
        step = self.saver.step
        if step is None:
            return "no state was saved yet"
        return f"the last good state is {checkpoint.path_of(self.saver.folder, step)}"


def _due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0

"""One loop for every stage: a stage is an nn.Module with `loss(batch) -> scalar`, and no more is asked.

Resuming is running the same command again: the newest whole state under out/state is taken up, and a finished
run returns at once. Each update seeds torch's generators from (seed, step), and data is a function of the
step, so that a run in one piece and a run in many are the same run: bit for bit on a CPU.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from digit.files import atomic_path
from digit.training import checkpoint
from digit.training.config import TrainConfig
from digit.training.interrupt import Interrupts
from digit.training.log import Log
from digit.training.status import Status, read_status, write_status
from digit.training.update import Updater

Evaluate = Callable[[nn.Module, int], Iterable[tuple[str, float]]]
Picture = Callable[[nn.Module, int], Image.Image]
OnSave = Callable[[nn.Module, Path | None], None]


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
) -> nn.Module:
    """Train `stage` on data(0), data(1), ...; the stage in eval mode, with the averaged weights if any.

    data(step) returns a batch on `device`.

    `out` gets state/, log.jsonl, loss.png, status.json and samples/step-*.png. Besides loss and learning rate
    the log has `stall`, the share of the time that was spent waiting in data(), and `tflops` and `mfu`, the
    speed of the matrix products of loss and gradient (see training/flops.py for what counts).

    evaluate, picture and on_save
    get the stage in eval mode with the averaged weights, without gradients and without autocast; on_save also
    gets the path of the state just written. At the wall-clock limit the run is saved and returned unfinished:
    see `read_status(out)`.

    An update whose loss or gradient is not finite is skipped. DigitError when several in a row are (`skips`),
    when another process trains in `out`, or when its states
    are of another model. On Ctrl-C or SIGTERM the state is saved and KeyboardInterrupt raised.
    """
    out, started = Path(out), time.monotonic()
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cuda = (
        [torch.cuda.current_device() if place.index is None else place.index] if place.type == "cuda" else []
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(checkpoint.hold(out / "state"))
        stack.enter_context(
            torch.random.fork_rng(cuda)
        )  # the caller's randomness goes on as if nothing had happened
        updater = Updater(stage, config, place)
        events: list[str] = []
        found = checkpoint.load_newest(out / "state", warn=events.append)
        if found:
            events += updater.restore(found)
        before = read_status(out)
        if updater.step < config.steps or before is None or not before.finished:
            if found:
                events.append(f"resumed from {found.path.name}")
            options = {"title": title, "progress": progress, "tensorboard": config.tensorboard}
            log = stack.enter_context(Log(out, step=updater.step, steps=config.steps, **options))
            for message in events:
                log.event(updater.step, message)
            interrupts = stack.enter_context(Interrupts())
            if config.compile:
                stack.enter_context(updater.compiled())
            _Run(updater, config, out, log, evaluate, picture, on_save, interrupts, started).go(data)
        updater.take_average()
    return stage.eval()


@dataclass
class _Run:
    """One process's part of a run: what happens between updates."""

    updater: Updater
    config: TrainConfig
    out: Path
    log: Log
    evaluate: Evaluate | None
    picture: Picture | None
    on_save: OnSave | None
    interrupts: Interrupts
    started: float  # time.monotonic() when this process began
    saved: int = -1  # step of the state this process wrote last
    mark: float = 0.0  # time.monotonic() at the last log line
    aside: float = 0.0  # seconds since then that were not training
    waited: float = 0.0  # seconds since then in `data`
    updates: int = 0  # updates since then

    def go(self, data: Callable[[int], Any]) -> None:
        """Update until the last step, the wall-clock limit or a signal."""
        updater, limit = self.updater, self.config.wall_clock_limit
        self.mark, first = time.monotonic(), True
        self._status("running")
        try:
            self._duties()  # those that an interruption left undone
            while updater.step < self.config.steps:
                self.interrupts.check()
                if limit is not None and time.monotonic() - self.started >= limit:
                    self._leave("wall-clock limit")
                    return
                with self.interrupts.at_once():
                    begun = time.monotonic()
                    batch = data(updater.step)
                    self.waited += time.monotonic() - begun
                if first:
                    with self._timed_aside():
                        updater.count(batch)
                    first = False
                updater.update(batch)
                self._after_update()
            if self.saved != updater.step:
                self._save()
            self._status("finished")
        except KeyboardInterrupt:
            if not updater.busy and not self.interrupts.insisted:
                self._leave("interrupted")
            raise

    def _after_update(self) -> None:
        """What is due after this update; only when something is, the device is waited for."""
        config, step = self.config, self.updater.step
        last = step == config.steps
        self.updates += 1
        self.log.advance(step)
        if self.evaluate and (last or _due(step, config.evaluate_every)):
            self.updater.duties.append("evaluate")
        if self.picture and (last or _due(step, config.sample_every)):
            self.updater.duties.append("picture")
        if last or _due(step, config.log_every):
            self._log_losses()
        self._duties()
        if last or _due(step, config.save_every):
            self._save()

    def _log_losses(self) -> None:
        self.updater.read_losses(self._last_good())
        updater, now = self.updater, time.monotonic()
        per_update = max(1e-9, now - self.mark - self.aside) / max(1, self.updates)
        rate = self.config.batch / per_update
        values = updater.take_means() | {
            "lr": updater.lr,
            "samples_per_second": rate,
            "stall": self.waited / max(1e-9, now - self.mark - self.aside),
            "seconds": self._seconds(),
            "eta_seconds": (self.config.steps - updater.step) * per_update,
        }
        self.log.record(updater.step, values | updater.speed(rate) | updater.metrics())
        self.mark, self.aside, self.waited, self.updates = now, 0.0, 0.0, 0

    def _duties(self) -> None:
        """Measure and draw what is due; each is struck off once it is on the disk."""
        step, evaluate, picture = self.updater.step, self.evaluate, self.picture
        for duty in list(self.updater.duties):
            self.updater.read_losses(self._last_good())
            with self._timed_aside(), self.updater.measuring() as stage:
                if duty == "evaluate" and evaluate:
                    with self.interrupts.at_once():
                        values = {name: float(value) for name, value in evaluate(stage, step)}
                    self.log.record(step, values)
                if duty == "picture" and picture:
                    with self.interrupts.at_once():
                        image = picture(stage, step)
                    with atomic_path(self.out / "samples" / f"step-{step:06d}.png") as temporary:
                        image.save(temporary, format="png")
            self.updater.duties.remove(duty)

    def _save(self) -> None:
        self.updater.read_losses(self._last_good())
        updater, folder = self.updater, self.out / "state"
        with self._timed_aside():
            path = checkpoint.save(
                folder,
                updater.step,
                model=updater.model_tensors(),
                optimizer=updater.optimizer_tensors(),
                state=updater.state() | {"seconds": self._seconds()},
                keep=self.config.keep,
            )
            self.log.plot()
            if self.on_save:
                with updater.measuring() as stage:
                    self.on_save(stage, path)
        self.saved = updater.step

    def _leave(self, reason: str) -> None:
        """Save and go: the same command takes the run up from here."""
        self._save()
        self._status(reason)
        self.log.event(self.updater.step, f"{reason}: saved unfinished, run the same command again to go on")

    def _status(self, reason: str) -> None:
        if reason != "running":
            self.log.plot(now=True)
        write_status(self.out, Status(self.updater.step, self.config.steps, reason, self._seconds()))

    def _seconds(self) -> float:
        return self.updater.seconds + time.monotonic() - self.started

    def _last_good(self) -> str:
        states = checkpoint.paths(self.out / "state")
        return f"the last good state is {states[-1]}" if states else "no state was saved yet"

    @contextlib.contextmanager
    def _timed_aside(self) -> Iterator[None]:
        """Keep the time inside out of the samples per second."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.aside += time.monotonic() - begun


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0

"""T19: trainings of two processes of which one or both are killed, told to end, or lose their launcher."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from PIL import Image

from digit.distributed import joined
from digit.errors import DigitError, Terminated
from digit.run import processes
from digit.training.log import read_status
from torture import training
from torture.children import Child, free_port, start
from torture.outcome import About, Outcome

ABOUT = About(
    what="trainings of 2 processes (gloo), half of them sharded (FSDP2), ended at random steps and started "
    "again: both killed by SIGKILL; one killed and the other sent SIGTERM, as torchrun's agent does; both "
    "sent SIGTERM; the process that started them, which has their store, killed; CPU",
    goal="40 runs, each ended in all four ways: gone within 30 s, <= 1 step lost but by SIGKILL, 0 "
    "unreadable, equal weights",
    full=40,
    short=1,
)
ENDS = ("both killed", "one killed", "SIGTERM", "launcher killed")
CONFIG = replace(training.CONFIG, evaluate_every=4, sample_every=4)
LONG = 0.05  # seconds after the wanted step began in which the end comes
REFUSED = 2


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` runs, sharded and not in turn, each ended once in every way."""
    outcome, draw = Outcome(), random.Random(seed)
    codes, out = training.make_data(folder), folder / "run"
    training.warm(codes, folder / "warm")
    ended, slowest = dict.fromkeys(ENDS, 0), 0.0

    def work(sharded: bool, place: Path, tell: Callable[[int], None]) -> int:
        processes.by_exception()
        tell(-1)
        try:
            with joined():
                code = training.train_prior(
                    codes,
                    place,
                    replace(CONFIG, sharded=sharded),
                    data=lambda usual, step: (tell(step), usual(step))[1],
                    evaluate=lambda stage, step: [("score", 1.0)],
                    picture=lambda stage, step: Image.new("RGB", (4, 4)),
                )
                if code:  # as the command line: who leaves by a signal does not wait for the others
                    raise Terminated
                return code
        except DigitError:
            return REFUSED
        except KeyboardInterrupt:
            return training.TERMINATED

    def finish(sharded: bool, place: Path, case: str) -> str:
        children = start(2, lambda _: work(sharded, place, lambda step: None))
        codes, said = _ended(children)
        outcome.check(codes == [0, 0], f"{case} ended with {codes} {said}")
        training.check_folder(outcome, place, case)
        return training.weights(place) if codes == [0, 0] else ""

    whole: dict[bool, str] = {}
    for i in range(cases):
        sharded, newest = i % 2 == 0, -1
        if sharded not in whole:
            whole[sharded] = finish(sharded, folder / f"whole-{sharded}", "a run of one piece")
        steps = sorted(draw.sample(range(-1, CONFIG.steps - 2), len(ENDS)))
        for at, way in zip(steps, draw.sample(ENDS, len(ENDS)), strict=True):

            def piece(pipe: int, at: int = at, sharded: bool = sharded) -> int:
                return work(sharded, out, _tell(pipe, at))

            launched = way == "launcher killed"
            children = [Child(lambda pipe, piece=piece: launch(pipe, piece))] if launched else start(2, piece)
            step = int(children[0].line() or -1)
            time.sleep(draw.random() * LONG)
            begun = time.monotonic()
            end(way, draw.sample(children, len(children)))
            codes_of, said = _ended(children)
            seconds = time.monotonic() - begun
            case = f"run {i}, {'sharded, ' * sharded}{way} at step {step}"
            allowed = {REFUSED, training.TERMINATED, -signal.SIGTERM, -signal.SIGKILL}
            outcome.check(set(codes_of) <= allowed, f"{case}: ended with {codes_of} {said}")
            outcome.check(seconds < 30, f"{case}: took {seconds:.0f} s")
            slowest = max(slowest, seconds)
            ended[way] += 1
            before, newest = newest, max([-1, *map(_step, (out / "state").glob("step-*"))])
            outcome.check(newest >= before, f"{case}: back from step {before} to {newest}")
            if step > 0 and way in ("SIGTERM", "launcher killed"):
                training.check_folder(outcome, out, case)
                # A process's first update, which may take a minute to compile, is not waited for.
                kept = newest >= (step if step > max(before, 0) + 1 else step - 1)
                outcome.check(kept, f"{case}, from {before} on: the newest state is of step {newest}")
                status = read_status(out)
                told = status is not None and status.reason == "interrupted"
                outcome.check(told, f"{case}: the status is {status}")
        case = f"run {i}{', sharded' * sharded}, after its ends"
        outcome.check(finish(sharded, out, case) == whole[sharded], f"{case}: other weights")
        shutil.rmtree(out, ignore_errors=True)
        outcome.cases += 1
    outcome.figures = {**ended, "slowest, s": slowest}
    return outcome


def launch(pipe: int, piece: Callable[[int], int]) -> None:
    """Start both as torchrun's agent does; all hold `pipe`, which is closed when the last has gone."""
    processes.LOOK = 0.01  # of a training that lasts a second
    port = free_port()
    os.environ |= {"TORCHELASTIC_RUN_ID": "torture", processes.LAUNCHER: str(os.getpid())}

    def work(_: int) -> int:
        processes.with_launcher()
        return piece(pipe)

    children = start(2, work, port)
    store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    for child in children:
        child.wait()
    del store


def end(way: str, children: list[Child]) -> None:
    """End the processes, or the one that started them, in one way."""
    for child in children:
        child.signal(signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL)
        if way == "one killed":
            way = "SIGTERM"


def _tell(pipe: int, at: int) -> Callable[[int], None]:
    """Writes the step to the pipe when the main process has come to `at`; -1 is before the first."""
    told = os.environ["RANK"] != "0"

    def tell(step: int) -> None:
        nonlocal told
        if not told and step >= at:
            told = True
            os.write(pipe, b"%d\n" % step)
        if step == CONFIG.steps - 1:  # what is to be ended does not come to its end by itself
            time.sleep(60)

    return tell


def _ended(children: list[Child]) -> tuple[list[int | None], str]:
    """Their exit codes, None for what still ran after two minutes, and what they said."""
    codes = [child.wait(120) for child in children]
    for child in children:
        child.kill()
    said = b"".join(child.read() for child in children).decode()[-300:]
    for child in children:
        child.close()
    return codes, said


def _step(state: Path) -> int:
    return int(state.name.removeprefix("step-"))

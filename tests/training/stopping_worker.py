"""Trainings of two processes that are stopped, one scenario after the other; test_stopping.py looks at them.

`python stopping_worker.py OUT`: this process imports once and forks the two for each scenario, each of which
writes how it ended to OUT/<scenario>-<rank>.json.
"""

import contextlib
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # as optimizers do, once for all that are forked
from stages import Batch, Plain, data

from digit.distributed import joined
from digit.errors import DigitError
from digit.training import checkpoint, log
from digit.training.config import OptimizerConfig
from digit.training.loop import TrainConfig, train

CONFIG = TrainConfig(
    steps=9,
    batch=6,
    optimizer=OptimizerConfig(lr=1e-2, warmup=4),
    log_every=2,
    save_every=4,
    evaluate_every=3,
    ema=0.9,
)
SCENARIOS = ("whole", "one signal", "evaluation", "compiling", "waiting", "full", "limit", "locked", "lost")


def me(number: int = signal.SIGTERM) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def halt(seconds: float = 60.0) -> None:
    """Something long, in which Python can be interrupted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)


def one(scenario: str, rank: int, out: Path, *, again: bool) -> None:
    """A process's part of a scenario; `again`: the same command, undisturbed."""
    happens = "" if again else scenario
    config = CONFIG

    def watched(step: int) -> Batch:
        if step == 5:
            if happens == "one signal" and rank == 1:
                me()
            if happens == "waiting":
                threading.Timer(0.1, me).start()
                halt(60.0 if rank == 0 else 0.0)
            if happens == "lost" and rank == 1:
                os._exit(9)
            if happens == "lost":
                threading.Timer(0.5, me).start()  # as torchrun does
        batch = data(step)
        rows = slice(3 * rank, 3 * rank + 3)
        return Batch(batch.x[rows], batch.y[rows])

    def evaluate(stage: Plain, step: int):
        if happens == "evaluation" and step == 6:
            threading.Timer(0.1, me, [signal.SIGINT]).start()
            halt(60.0 if rank == 0 else 0.0)
        yield "score", float(stage.layer.weight.sum())

    class Stage(Plain):
        def loss(self, batch: Batch) -> torch.Tensor:
            if happens == "compiling" and self.training and not batch.x.is_meta:
                threading.Timer(0.1, me).start()
                halt(60.0 if rank == 0 else 0.0)
            return super().loss(batch)

    write_tensors = checkpoint.write_safetensors_atomic

    def full(path: Path, tensors: dict[str, torch.Tensor]) -> str:
        if "step-0000008" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_tensors(path, tensors)

    if happens == "full" and rank == 0:
        checkpoint.write_safetensors_atomic = full
    if happens == "limit" and rank == 1:
        config = replace(CONFIG, wall_clock_limit=0.0)
    torch.manual_seed(0)
    with joined():
        train(
            Stage(),
            watched,
            config,
            out,
            evaluate=evaluate,
            on_save=lambda stage, path: (out / f"artifact-{rank}").touch(),
            device="cpu",
            progress=False,
        )


def child(scenario: str, rank: int, port: int, folder: Path, *, again: bool) -> None:
    """Run a process's part and write down how it ended."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    signal.signal(signal.SIGTERM, lambda *_: None)  # of late timers
    ended, said = "returned", ""
    begun = time.monotonic()
    try:
        one(scenario, rank, folder / scenario, again=again)
    except (DigitError, KeyboardInterrupt) as error:
        ended, said = type(error).__name__, str(error)
    name = f"{scenario}{' again' if again else ''}-{rank}.json"
    value = {"ended": ended, "said": said, "seconds": time.monotonic() - begun}
    (folder / name).write_text(json.dumps(value))


def main(folder: Path) -> None:
    """Run all scenarios, and after each the same command again."""
    log.draw = lambda records, path: None
    torch.set_num_threads(1)
    for scenario in SCENARIOS:
        for again in (False, True):
            with contextlib.ExitStack() as stack, socket.socket() as listening:
                if scenario == "locked" and not again:
                    stack.enter_context(checkpoint.hold(folder / scenario / "state"))
                listening.bind(("localhost", 0))
                port = listening.getsockname()[1]
                listening.close()
                children = []
                for rank in range(2):
                    number = os.fork()
                    if number == 0:
                        child(scenario, rank, port, folder, again=again)
                        os._exit(0)
                    children.append(number)
                for number in children:
                    os.waitpid(number, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

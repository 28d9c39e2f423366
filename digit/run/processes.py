"""Processes of one command line: how each ends by a signal, and `--processes N` by torchrun's agent."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from types import FrameType

from digit.errors import Terminated
from digit.printing import put

LAUNCHER = "DIGIT_LAUNCHER"  # by which `--processes` tells the processes that it starts its own number
MOST = 1024  # processes of one command
LOOK = 0.5  # seconds between looks after it
_agent: list[int] = []  # the number of torchrun's, if it started this process
SENTENCE = "digit: interrupted; what is written is whole, and the same command goes on or starts again"


def at_once() -> None:
    """From here on a signal ends the process at once: for start-up, before there is anything to save."""
    _handle(_leave)


def with_launcher() -> None:
    """If torchrun's agent started this process, end with it: one that is killed by SIGKILL tells nobody.

    The process would compute on unseen, or wait for hours for the store that went with the agent. A thread
    does what the agent would have done: it sends SIGTERM and, when the time to save is over, SIGKILL. Linux's
    PR_SET_PDEATHSIG would not serve a Mac, nor end what waits in C++ where no handler of Python's runs, nor
    notice an agent that went before: that of `--processes` has told its number.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    _agent[:] = [int(os.environ.get(LAUNCHER) or os.getppid())]

    def look() -> None:
        while not orphaned():
            time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30")))
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=look, daemon=True).start()


def orphaned() -> bool:
    """Whether torchrun's agent started this process and has gone: who adopts it has another number."""
    return bool(_agent) and [os.getppid()] != _agent


def by_exception() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt and SIGTERM Terminated, so that work cleans up."""
    _handle(_raise)


def interrupted(stop: KeyboardInterrupt) -> int:
    """Say it once, from the main process, and give the exit code."""
    if os.environ.get("RANK", "0") == "0":
        put(SENTENCE, error=True)
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells' background jobs have it
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{SENTENCE}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def number(text: str) -> int:
    """How many processes `--processes` asks for; argparse's error if that is no number from 1."""
    if not text.isdecimal() or not 1 <= int(text[:20]) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 to {MOST}, best one for each GPU")
    return int(text)


def without_processes(arguments: list[str]) -> list[str]:
    """The arguments without `--processes N`."""
    for place, argument in enumerate(arguments):
        name, equals, _ = argument.partition("=")
        if name == "--processes":
            return arguments[:place] + arguments[place + (1 if equals else 2) :]
    return arguments


def run_together(arguments: list[str], processes: int, *, program: Sequence[str] = ("-m", "digit")) -> int:
    """Run Python's `program` with `arguments` in `processes` processes; 0, or the code of the first to fail.

    A signal reaches all of them, which have 30 seconds to save. When one fails the others are ended. When
    this process is killed they end as by SIGTERM (see `with_launcher`).
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # our own sentence says it
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",  # by default the machine's name, which bare machines cannot look up
        max_restarts=0,
        monitor_interval=0.1,
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        elastic_launch(config, sys.executable)(*program, *arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as stop:
        return 128 + stop.sigval
    finally:
        del os.environ[LAUNCHER]
        for number, handler in handlers.items():  # the agent leaves its own behind
            signal.signal(number, handler)
    return 0

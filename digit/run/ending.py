"""How a command ends: told by Ctrl-C and SIGTERM, each with its exit code, or left by its launcher."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from digit.errors import Terminated

LAUNCHER = "DIGIT_LAUNCHER"  # by which `--processes` tells the processes that it starts its own number
LOOK = 0.5  # seconds between looks after it
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
    agent = int(os.environ.get(LAUNCHER) or os.getppid())

    def look() -> None:
        while os.getppid() == agent:  # whoever adopts an orphan has another number
            time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30")))
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=look, daemon=True).start()


def by_exception() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt and SIGTERM Terminated, so that work cleans up."""
    _handle(_raise)


def interrupted(stop: KeyboardInterrupt) -> int:
    """Say it once, from the main process, and give the exit code."""
    if os.environ.get("RANK", "0") == "0":
        print(SENTENCE, file=sys.stderr)
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

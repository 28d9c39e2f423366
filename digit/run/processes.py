"""`digit VERB ... --processes 8`: one command line in several local processes, by torchrun's agent."""

import argparse
import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from digit.run.ending import LAUNCHER


def number(text: str) -> int:
    """How many processes `--processes` asks for; argparse's error if that is no number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1, best one for each GPU")
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

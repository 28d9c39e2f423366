"""Processes to be killed: copies of this one, so that a kill costs milliseconds."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable


class Child:
    """A copy of this process that runs one function; `reader` is the end of a pipe that it writes to."""

    def __init__(self, function: Callable[[int], object], *, silent: bool = True) -> None:
        """Start it. The function gets the descriptor of the pipe's other end; its result is the exit code."""
        self.reader, writer = os.pipe()
        self.code: int | None = None  # once it has ended; negative: the signal that ended it
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            return
        code = 70  # an exception that nothing caught
        try:
            os.close(self.reader)
            if silent:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
            result = function(writer)
            code = result if isinstance(result, int) else 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)

    def read(self) -> bytes:
        """All that it wrote until it ended."""
        data = b""
        while part := os.read(self.reader, 65536):
            data += part
        return data

    def line(self) -> str:
        """The next line that it writes; "" when it has ended."""
        data = b""
        while not data.endswith(b"\n") and (part := os.read(self.reader, 1)):
            data += part
        return data.decode().strip()

    def signal(self, number: int) -> None:
        """Send a signal, if it has not been waited for yet."""
        if self.code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, as a power cut of a process would."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code, or None if it still runs after `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif until is not None and time.monotonic() >= until:
                return None
            else:
                time.sleep(0.002)
        return self.code

    def close(self) -> None:
        """Forget it, and end it if it still runs."""
        self.kill()
        os.close(self.reader)


def start(processes: int, function: Callable[[int], object], port: int | None = None) -> list[Child]:
    """Run a function in as many processes as torchrun would, each with its variables.

    port: where a launcher's store is that they meet in; without one their first has it.
    """
    told = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
    told |= {"MASTER_PORT": port or free_port(), "TORCHELASTIC_USE_AGENT_STORE": port is not None}

    def work(number: int, pipe: int) -> object:
        each = {**told, "RANK": number, "LOCAL_RANK": number}
        os.environ.update({name: str(value) for name, value in each.items()})
        return function(pipe)

    return [Child(lambda pipe, number=number: work(number, pipe)) for number in range(processes)]


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def together(processes: int, function: Callable[[int], object]) -> list[int | None]:
    """The exit codes of the processes of `start`."""
    children = start(processes, function)
    codes = [child.wait(120) for child in children]
    for child in children:
        child.close()
    return codes

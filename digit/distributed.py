"""Several processes of one command, started by torchrun: who they are, and the little they tell each other.

Every function also serves a process that is alone, where it costs nothing. Tensors on the CPU travel by gloo,
those on a GPU by NCCL; Python values travel as JSON, so that no process unpickles what it is sent.
"""

import atexit
import contextlib
import datetime
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from digit.errors import DigitError, first_line

TIMEOUT = datetime.timedelta(hours=2)  # torchrun ends the others when one dies; this is for those that hang

T = TypeVar("T")


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes that torchrun started can talk; nothing happens in a process that is alone.

    An error ends it in this process alone. NCCL neither destroys nor aborts a group of one machine before all
    of its processes do, and the others may be waiting for this one: where there are GPUs the group is left as
    it is, and the end of the process does without destructors.

    Raises:
        DigitError: torchrun's variables are there and the others cannot be reached, or another ended while
            this one waited for it, or there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    backend, device = "gloo", None
    if torch.cuda.is_available():
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if processes > gpus:  # NCCL refuses two on one, in words that do not say it
            raise DigitError(
                f"{processes} processes need a GPU each and this machine has {gpus}: start fewer, or set "
                "CUDA_VISIBLE_DEVICES= to compute on the CPU"
            )
        device = torch.device("cuda", local_rank() % gpus)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        # The default: what waits in C++ for others runs no handler of Python.
        with handled(signal.SIG_DFL):
            dist.init_process_group(backend, timeout=TIMEOUT, device_id=device)
    except (ValueError, RuntimeError) as error:
        raise DigitError(
            f"the other processes cannot be reached ({first_line(error)}): start all by torchrun, or unset "
            "WORLD_SIZE"
        ) from error
    try:
        yield
        if device is not None:
            wait()  # so that NCCL's group is destroyed by all at once; gloo's needs no such thing
    except BaseException as error:
        lost = isinstance(error, RuntimeError) and is_lost(error)
        if device is None:
            dist.destroy_process_group()
        else:
            code = error.code if isinstance(error, SystemExit) else 1
            atexit.register(leave, code if isinstance(code, int) else int(code is not None))
        if lost:
            raise DigitError("another process of this command has ended: what it said tells why") from error
        raise
    dist.destroy_process_group()


def leave(code: int = 0) -> NoReturn:
    """End this process, without destructors: how one that was `joined` ends.

    In them NCCL waits for the others, and a thread of gloo's that still lets go of a tensor needs the
    interpreter, which is gone by then: it aborts the process after all is done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def handled(handler: Any) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM go to `handler`; only of the main thread, which alone may set handlers."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as shells' background jobs have it
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process on its machine, from 0: which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return rank() == 0


def share(count: int, what: str = "batch") -> slice:
    """The rows of `count` that are this process's: equal parts in the order of the processes.

    Raises:
        DigitError: `count`, which `what` names, does not divide among the processes.
    """
    if count % world_size():
        raise DigitError(
            f"{what} {count} does not divide among {world_size()} processes: choose a multiple of them"
        )
    part = count // world_size()
    return slice(rank() * part, (rank() + 1) * part)


def add_up(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over the processes, in place; the same bits in all of them."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def as_main(*tensors: Tensor) -> None:
    """Replace each tensor by that of the main process, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, 0)


def any_of(flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    return bool(largest(int(flag)))


def gather(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """What each process gave, in their order, in all of them; values are what JSON can hold.

    `group`: the same processes in a group of their own, for a thread that talks beside the others.
    """
    if world_size() == 1:
        return [value]
    data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(bytes(part.tolist())) for part in gather_rows(data, group)]


def gather_rows(rows: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """The tensor of each process, in their order, in all of them; they may differ in length only."""
    if world_size() == 1:
        return [rows]
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(lengths, torch.tensor([len(rows)]), group=group)
    longest = int(max(lengths))
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded, group=group)
    return [part[: int(length)] for part, length in zip(parts, lengths, strict=True)]


def from_main(value: T) -> T:
    """The main process's value, in all of them; it is what JSON can hold."""
    given: Any = gather(value if is_main() else None)
    return given[0]


def wait() -> None:
    """Go on when all processes have come here."""
    any_of(False)


@contextlib.contextmanager
def by_main(context: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    """The main process enters `context`, such as a lock, for all; DigitError in all of them if it refuses."""
    with contextlib.ExitStack() as stack:
        _main_does(lambda: stack.enter_context(context))
        yield


def on_main(work: Callable[[], T]) -> T:
    """The main process does `work`; its value, which JSON can hold, or its DigitError in all of them."""
    return from_main(_main_does(work))


def _main_does(work: Callable[[], Any]) -> Any:
    """What `work` gives in the main process, None elsewhere; its DigitError is raised in all."""
    value = refusal = None
    if is_main():
        try:
            value = work()
        except DigitError as error:
            refusal = error
    raise_in_all(refusal)
    return value


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block before the others do: it downloads, they find what is there.

    An error in the main process lets the others go on, into the same error.
    """
    if not is_main():
        wait()
    try:
        yield
    finally:
        if is_main():
            wait()


def is_lost(error: RuntimeError) -> bool:
    """Whether `error` says that another process cannot be reached any more."""
    return world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


def raise_in_all(failed: Exception | None) -> None:
    """Raise an error that a process has in all of them: there itself, elsewhere the first one's sentence."""
    sentences = gather(None if failed is None else str(failed))
    if failed is not None:
        raise failed
    for sentence in sentences:
        if sentence is not None:
            raise DigitError(sentence)

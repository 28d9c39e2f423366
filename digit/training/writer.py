"""A thread that writes while training goes on; its errors are raised in the training."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Runs work beside the training thread, which alone may call its methods.

    Leaving the block waits for the work in flight: afterwards nothing is written any more.
    """

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="digit-writer")
        self._work: Future[None] | None = None

    def __enter__(self) -> "Writer":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the work in flight, whatever comes of it: the error that ends the block is the first."""
        self._pool.shutdown(wait=True)

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`, once the work before it is done; raises what went wrong in that."""
        self.wait()
        self._work = self._pool.submit(work)

    def check(self) -> None:
        """Raise what went wrong, if the work has ended; does not wait."""
        if self._work is not None and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the work in flight; raises what went wrong in it."""
        if self._work is not None:
            work, self._work = self._work, None
            work.result()

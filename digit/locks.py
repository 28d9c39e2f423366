"""One writer per folder: a lock that other processes see, on file systems with locks and without."""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from digit.errors import DigitError
from digit.opening import what_it_is
from digit.progress import say

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_kept = threading.local()  # .folders: those that a thread keeps


@contextlib.contextmanager
def locked(folder: str | Path, refusal: str, *, again: bool = False) -> Iterator[None]:
    """Keep `folder` for this thread.

    With `again` a thread that keeps it already has it once more. A file system without locks (Lustre, some
    NFS and FUSE) gets a warning and a file with the number of this process, which keeps out others of this
    machine, and of others while the file is there.

    Raises:
        DigitError: with the sentence `refusal` when another one has it, or where the lock's name is taken by
            what is no file.
    """
    mine: set[str] = _kept.__dict__.setdefault("folders", set())
    folder, name = Path(folder), os.path.realpath(folder)
    if again and name in mine:
        yield
        return
    with _locked(folder, refusal):
        mine.add(name)
        try:
            yield
        finally:
            mine.discard(name)


@contextlib.contextmanager
def _locked(folder: Path, refusal: str) -> Iterator[None]:
    path = folder / ".lock"
    lock: BaseFileLock = _lock(path)
    try:
        lock.acquire()
    except Timeout:
        raise DigitError(refusal) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        say(
            f"digit: {folder} is on a file system without locks ({error.strerror}): what another machine "
            "does there is not seen in time, let one command at a time write there"
        )
        with contextlib.suppress(OSError):
            path.unlink()  # what the attempt left
        path = path.with_name(".lock-process")
        lock = SoftFileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise DigitError(f"{refusal} (or delete {path} if none is)") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            path.unlink()
        lock.release()


def refuse_locked(folder: str | Path, refusal: str) -> None:
    """DigitError with the sentence `refusal` when another process keeps `folder`; nothing is written."""
    path = Path(folder) / ".lock"
    with contextlib.suppress(OSError):
        if path.is_file():
            try:
                with _lock(path).acquire():
                    pass
            except Timeout:
                raise DigitError(refusal) from None


def _lock(path: Path) -> FileLock:
    """A lock that is not waited for; what it falls back to is `_locked`'s business.

    It neither follows a link nor changes what a file holds.

    Raises:
        DigitError: the name is taken by a link, a pipe or the like, which digit does not make.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise DigitError(f"{path} is {what_it_is(mode)}, which digit did not make: remove it")
    return FileLock(path, timeout=0, fallback_to_soft=False)

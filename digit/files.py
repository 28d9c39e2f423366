"""Files that are whole or absent: written under a temporary name, flushed to the disk, then renamed.

JSON and files of bytes can carry the sha256 of their own bytes, so that a byte which changed on the
disk is found when they are read.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from filelock import lock_descriptor

from digit.entries import parsed
from digit.errors import DigitError
from digit.opening import open_regular, read_file, sha256_of, what_it_is
from digit.printing import readable

TEMPORARY = ".tmp-"  # temporary names are ".tmp-<random>-<name>", beside the file they become
CHECKSUM = "checksum"  # key of the sha256 of a JSON file's own text
_SHA256 = "sha256:"  # how its value starts, which no other value does: so a damaged key is noticed too
_SEAL = re.compile(rb'\{\n  "checksum": "sha256:([0-9a-f]{64})",\n')  # how sealed JSON begins
_DAY = 24 * 3600  # seconds
# No link is followed, no pipe waited for; what a platform lacks is left out.
_CAREFUL = sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT")
)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """An open file to write, and to read back; it becomes `path` when the block ends well.

    The folder that holds it is made. Nothing that lies there under any name is opened or followed, and rights
    follow the umask. If the block raises, `path` is as it was.
    """
    path = _with_parent(path)
    with _told_as(path):
        file, temporary = _create(path)
        try:
            with file:
                yield file
                file.flush()
                _flush(temporary)
                _check_same(file.fileno(), temporary)
                if os.name == "nt":  # renames nothing that is open
                    file.close()
                temporary.replace(path)  # while it is locked: nobody takes it for a leftover
            _flush(path.parent)
        finally:
            remove(temporary)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new, empty folder; it becomes `path`, in place of a folder there, when the block ends well.

    If the block raises, it is removed with all that it holds, and `path` is as it was. DigitError, too, where
    there was no `path` and somebody has made one meanwhile.
    """
    path = _with_parent(path)
    there = path.exists()
    clean_up(path.parent)
    with _told_as(path):
        temporary = _beside(path)
        temporary.mkdir()
        try:
            with _kept(temporary):
                yield temporary
                for file in (*temporary.rglob("*"), temporary):
                    _flush(file)
                if path.exists() and not there:
                    raise DigitError(
                        f"another command has written {path} meanwhile, and nothing is kept of this one: "
                        "choose another place, or use what is there"
                    )
                if path.is_dir():
                    # A folder cannot be renamed over one that holds files: the old one steps aside first.
                    aside = _beside(path)
                    path.replace(aside)
                    temporary.replace(path)
                    remove(aside)
                else:
                    temporary.replace(path)
            _flush(path.parent)
        finally:
            remove(temporary)


def open_to_append(path: str | Path) -> FileIO:
    """A file to write behind what it holds, without a buffer; it is made where there is none.

    Raises:
        OSError: the name is taken by a link or by what is no file, or nothing can be written.
    """

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | _CAREFUL, 0o666)
        if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.ENXIO, f"it is {what_it_is(mode)}, no file", name)
        return descriptor

    return open(path, "ab", buffering=0, opener=opener)


def make_folder(path: str | Path) -> None:
    """Make a folder, and see that files can be made in it before work is spent on them.

    DigitError where no folder can be, OSError where a disk takes nothing.
    """
    check_writable(Path(path))
    Path(path).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def make_inner(path: Path) -> None:
    """Make a folder of digit's own name in an output folder; DigitError where that name is a link."""
    refuse_link(path)
    path.mkdir(parents=True, exist_ok=True)


def refuse_link(path: str | Path) -> None:
    """DigitError where a folder lies elsewhere: nothing is written outside of an output folder."""
    if Path(path).is_symlink() and Path(path).is_dir():
        raise DigitError(f"{path} is a link to a folder elsewhere, where nothing is written: remove it")


def check_writable(out: Path) -> Path:
    """The nearest folder at or above `out` that exists; DigitError where nothing can be written below it."""
    there = out.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise DigitError(f"{there} is a file: choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DigitError(f"{there} cannot be written: choose another --out")
    return there


def clean_up(folder: str | Path) -> int:
    """Remove the temporaries that killed processes left in `folder`; how many there were.

    One that is being written, by whatever process, is locked and stays. Where a file system has no locks, one
    that changed within a day stays too.
    """
    stale = [path for path in Path(folder).glob(f"{TEMPORARY}*") if _is_left(path)]
    for path in stale:
        remove(path)
    return len(stale)


def remove(path: str | Path) -> None:
    """Remove a file, a link or a folder with all it holds; nothing happens if there is none."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _with_parent(path: str | Path) -> Path:
    """The path, whose folder is made."""
    path = Path(path)
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _beside(path: Path) -> Path:
    """A name in the same folder that nobody can guess, so that nothing can lie there beforehand."""
    return path.parent / f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}"


def _create(path: Path) -> tuple[BinaryIO, Path]:
    """A new file under a temporary name of `path`, locked as long as it is open, and that name."""
    while True:
        temporary = _beside(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFUL
        file = os.fdopen(os.open(temporary, flags, 0o666), "w+b")
        with contextlib.suppress(OSError):  # no locks here
            if not lock_descriptor(file.fileno(), blocking=False) or not os.fstat(file.fileno()).st_nlink:
                file.close()  # another process just took it for a leftover, and removes it
                continue
        return file, temporary


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Lock a temporary folder, so that nobody takes it for a leftover."""
    if os.name == "nt":  # opens no folders
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # no locks here
            lock_descriptor(descriptor, blocking=False)
        yield
    finally:
        os.close(descriptor)


def _is_left(temporary: Path) -> bool:
    """Whether nobody writes a temporary any more."""
    try:
        if not stat.S_ISREG(mode := temporary.lstat().st_mode) and not stat.S_ISDIR(mode):
            return True  # a link, a pipe: not ours
        descriptor = os.open(temporary, os.O_RDONLY | _CAREFUL)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's, or on Windows a folder
        return time.time() - temporary.lstat().st_mtime > _DAY
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:  # no locks here
        return time.time() - os.fstat(descriptor).st_mtime > _DAY
    finally:
        os.close(descriptor)


def _check_same(descriptor: int, temporary: Path) -> None:
    """OSError where another file lies under the name of the one that was written."""
    if not os.path.samestat(os.fstat(descriptor), temporary.lstat()):
        raise OSError(errno.EIO, "another program put another file in its place", str(temporary))


@contextlib.contextmanager
def _told_as(path: Path) -> Iterator[None]:
    """Errors name `path`, which people know, in place of a temporary."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or TEMPORARY in str(error.filename)):
            error.filename = str(path)
        raise


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json_atomic(path: str | Path, value: Any, *, checksum: bool = False) -> None:
    """Write indented JSON, whole or not at all; NaN and infinity, which JSON lacks, raise ValueError.

    With `checksum` the first line of an object is the sha256 of the text without that line, which `read_json`
    compares.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if checksum:
        digest = hashlib.sha256(text.encode()).hexdigest()
        text = f'{{\n  "{CHECKSUM}": "{_SHA256}{digest}",\n' + text.removeprefix("{\n")
    write_text_atomic(path, text)


def read_json(path: str | Path) -> Any:
    """Read JSON; DigitError when the file is absent, is no JSON, or differs from the checksum in it."""
    try:
        data = read_file(path)
        value = parsed(data)
    except FileNotFoundError:
        raise DigitError(f"{path} does not exist: check the path") from None
    except (OSError, ValueError) as error:
        raise DigitError(
            f"{path} cannot be read as JSON ({readable(error, 300)}): make or copy it again"
        ) from None
    if not isinstance(value, dict):
        return value
    sealed = _SEAL.match(data)
    if sealed:
        value.pop(CHECKSUM)
        whole = hashlib.sha256(b"{\n" + data[sealed.end() :]).hexdigest() == sealed[1].decode()
    else:
        whole = not _is_damaged_seal(value)
    if not whole:
        raise DigitError(
            f"{path} is not what was written (its checksum differs): make or copy it again, or take out its "
            "line of the checksum if the change is your own"
        )
    return value


def _is_damaged_seal(values: Mapping[str, Any]) -> bool:
    """Whether a checksum, or what a wrong byte left of it, is among the values."""
    return CHECKSUM in values or any(
        isinstance(value, str) and value.startswith(_SHA256) for value in values.values()
    )


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Write bytes and, after them, the 32 bytes of their sha256; whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)
        file.write(hashlib.sha256(data).digest())


def read_bytes(path: str | Path) -> bytes:
    """What `write_bytes_atomic` wrote; DigitError when the file is absent or differs from its checksum."""
    try:
        data = read_file(path)
    except FileNotFoundError:
        raise DigitError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise DigitError(f"{path} cannot be read ({error.strerror}): make it again") from None
    if len(data) < 32 or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise DigitError(
            f"{path} is not what was written (its checksum differs): delete it and make it again"
        )
    return data[:-32]


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with open_regular(path) as file:
        return sha256_of(file)


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, (os.O_RDWR if os.name == "nt" else os.O_RDONLY) | _CAREFUL)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

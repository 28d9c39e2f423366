"""The one way to a file that others may have written: a look first, then the very file that was looked at.

A name in somebody's folder may be a pipe, on which a reader waits for ever, a device, or a link to another
place; and what it names may change between a look and the opening.
"""

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

# What a platform lacks is left out: Windows has none of these, and names pipes and devices elsewhere.
_READ = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY", "O_NOINHERIT")
)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


def open_regular(path: str | Path, *, links: bool = True, buffering: int = -1) -> BinaryIO:
    """A regular file, open for reading bytes; without `links` the last name in `path` must be no link.

    Raises:
        OSError: there is none, it may not be read, or it is something else (`strerror` says what).
    """
    # Even to open a device may do something, so that it is looked at before as well.
    _check(Path(path).stat(follow_symlinks=links), path)

    def opener(name: str, _: int) -> int:
        try:
            descriptor = os.open(name, _READ | (0 if links else _NO_LINK))
        except OSError as error:
            if error.errno == errno.ELOOP and not links:
                raise _refused(stat.S_IFLNK, path) from None
            raise
        try:
            _check(os.fstat(descriptor), path)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    return open(path, "rb", buffering, opener=opener)  # pyright: ignore[reportReturnType]


def read_file(path: str | Path, *, links: bool = True, most: int | None = None) -> bytes:
    """All bytes of a regular file; OSError as of `open_regular`, and where there are more than `most`."""
    with open_regular(path, links=links, buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.ENXIO, f"it has {size:,} bytes, {most:,} are the most here", str(path))
        data = file.read() if most is None else file.read(size + 1)
        # No more at once than there seems to be: a reader sets aside all that it is asked for.
        while most is not None and len(data) <= most and (more := file.read(1 << 16)):
            data += more
    if most is not None and len(data) > most:
        raise OSError(errno.ENXIO, f"it has more than {most:,} bytes, the most here", str(path))
    return data


def name_of(file: BinaryIO) -> str:
    """A name of this very open file, for libraries that open by name; its path where a system has none."""
    name = f"/dev/fd/{file.fileno()}"
    return name if Path(name).exists() else str(file.name)


def sha256_of(file: BinaryIO) -> str:
    """The sha256 of all bytes of an open file, as 64 hexadecimal digits; it stands at its end then."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def leads_out(path: str | Path, root: str | Path) -> bool:
    """Whether what `path` names, all links followed, lies outside of the folder `root`."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def what_it_is(mode: int) -> str:
    """What a file's `st_mode` says it is, for a sentence, where it is no regular file."""
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def _check(found: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _refused(found.st_mode, path)


def _refused(mode: int, path: str | Path) -> OSError:
    kind = stat.S_IFMT(mode)
    number = errno.EISDIR if kind == stat.S_IFDIR else errno.ELOOP if kind == stat.S_IFLNK else errno.ENXIO
    return OSError(number, f"it is {what_it_is(mode)}, no file", str(path))

"""Files that are whole or absent: written under a temporary name, flushed to the disk, then renamed.

JSON and files of bytes can carry the sha256 of their own bytes, so that a byte which changed on the
disk is found when they are read.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from torch import Tensor

from digit.errors import DigitError
from digit.printing import listed, readable
from digit.progress import say

TEMPORARY = ".tmp-"  # temporary names are ".tmp-<random>-<name>", beside the file they become
CHECKSUM = "checksum"  # key of the sha256 of a JSON file's own text
_SHA256 = "sha256:"  # how its value starts, which no other value does: so a damaged key is noticed too
_SEAL = re.compile(rb'\{\n  "checksum": "sha256:([0-9a-f]{64})",\n')  # how sealed JSON begins

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name for a file or folder; it becomes `path` when the block ends well.

    The folder that holds it is made. If the block raises, the temporary is removed and `path` is as it was.
    """
    path = Path(path)
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}"
    try:
        yield temporary
        for file in [*temporary.rglob("*"), temporary] if temporary.is_dir() else [temporary]:
            _flush(file)
        if temporary.is_dir() and path.is_dir():
            # A folder cannot be renamed over one that holds files: the old one steps aside first.
            aside = path.parent / f"{TEMPORARY}{uuid.uuid4().hex[:8]}-old-{path.name}"
            path.replace(aside)
            temporary.replace(path)
            remove(aside)
        else:
            temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        if error.errno is not None and (error.filename is None or TEMPORARY in str(error.filename)):
            error.filename = str(path)  # the name that people know
        raise
    finally:
        remove(temporary)


@contextlib.contextmanager
def locked(folder: str | Path, refusal: str) -> Iterator[None]:
    """Keep `folder` for this process; DigitError with the sentence `refusal` when another one has it.

    A file system without locks (Lustre, some NFS and FUSE) gets a warning and a file with the number of this
    process, which keeps out others of this machine, and of others while the file is there.
    """
    path = Path(folder) / ".lock"
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
    """A lock that is not waited for; what it falls back to is `locked`'s business."""
    return FileLock(path, timeout=0, fallback_to_soft=False)


def make_folder(path: str | Path) -> None:
    """Make a folder, and see that files can be made in it before work is spent on them.

    DigitError where no folder can be, OSError where a disk takes nothing.
    """
    check_writable(Path(path))
    Path(path).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


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
    """Remove the temporaries that a killed process left in `folder`; how many there were.

    Only for a folder that one process writes: another's unfinished file would go too.
    """
    stale = list(Path(folder).glob(f"{TEMPORARY}*"))
    for path in stale:
        remove(path)
    return len(stale)


def remove(path: str | Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens if there is none."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
        data = Path(path).read_bytes()
        value = json.loads(data.decode())
    except FileNotFoundError:
        raise DigitError(f"{path} does not exist: check the path") from None
    except (OSError, ValueError, RecursionError) as error:
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


def write_safetensors_atomic(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors from any device, whole or not at all; tensors that share memory are stored once each.

    DigitError when the disk refuses.
    """
    with atomic_path(path) as temporary:
        try:
            safetensors.torch.save_file(on_cpu(tensors), temporary, metadata=dict(metadata or {}) or None)
        except safetensors.SafetensorError as error:
            raise DigitError(
                f"{path} cannot be written ({error}): make room or choose another folder"
            ) from None
        temporary.chmod(0o644)  # safetensors writes files that only their owner may read


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on the CPU; DigitError when it is absent or damaged."""
    if not Path(path).is_file():
        raise DigitError(f"{path} does not exist: check the path")
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # a header that lies may raise anything
        raise DigitError(
            f"{path} is not a whole safetensors file ({readable(error, 300)}): make or copy it again"
        ) from None


def check_finite(tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """DigitError that names the file `where` and the tensors that hold NaN or infinity."""
    # A sum is one pass without memory of its own; only one that is not finite needs a closer look.
    suspects = [name for name, value in tensors.items() if not math.isfinite(value.sum())]
    if bad := [name for name in suspects if not tensors[name].isfinite().all()]:
        raise DigitError(
            f"{where} holds values that are not finite, in {listed(bad, 4)}: copy or make it again"
        )


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Write bytes and, after them, the 32 bytes of their sha256; whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.write(hashlib.sha256(data).digest())


def read_bytes(path: str | Path) -> bytes:
    """What `write_bytes_atomic` wrote; DigitError when the file is absent or differs from its checksum."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DigitError(f"{path} does not exist: check the path") from None
    if len(data) < 32 or hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise DigitError(
            f"{path} is not what was written (its checksum differs): delete it and make it again"
        )
    return data[:-32]


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, no two sharing memory (safetensors refuses aliases)."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        if pointer in seen or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        result[name] = tensor
    return result


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files of the Hugging Face hub in its client's cache, from servers that may lie, stall or break off.

The client starts a file over when the process ends or the connection is reset, too much for gigabytes, and
takes whatever a server sends. Here an unfinished file is kept beside its place in the cache, no byte is taken
beyond the announced ones, and a file gets its name there when its size and checksum hold.
"""

import hashlib
import importlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status

from digit.errors import DigitError
from digit.files import open_to_append, remove, write_text_atomic
from digit.opening import open_regular
from digit.progress import progress as shown

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
T = TypeVar("T")
PIECE = 2**20  # bytes that count as one in progress
ATTEMPTS, IN_ALL = 5, 100  # in a row without a MiB, and together, before giving up
PAUSE = 1.0  # seconds before another attempt, times the number of those that gave nothing
TIMEOUT = 30.0  # seconds without a byte
ANSWER = 60.0  # seconds until an answer has begun, redirects and all
SLOWEST = 1024  # bytes per second, over ANSWER seconds or more
_CLIENT = importlib.import_module(HTTPError.__module__.partition(".")[0])  # httpx, by one name or another
# What the client and its servers' answers raise, besides what it says itself.
_FAILURES = (
    HTTPError, EntryNotFoundError, OfflineModeIsEnabled, FileMetadataError, ValueError, _CLIENT.InvalidURL,
)  # fmt: skip


class Unfinished(HTTPError):
    """An answer that does not begin, does not end, or is not what was asked for."""


def fetch(
    repo: str,
    path: str,
    *,
    revision: str | None = None,
    newest: bool = False,
    size: int | None = None,
    cache: Path | None = None,
    endpoint: str | None = None,
    token: str | bool | None = None,
    progress: Progress = shown,
) -> tuple[Path, str | None]:
    """A file of the hub, from the cache or fetched into it, and the sha256 that the hub has for it.

    Args:
        repo: owner/name.
        path: of the file in it.
        revision: a branch, tag or commit; the main branch by default.
        newest: ask the hub whether there is another one, also where the cache has the file; what it has is
            taken if the hub does not answer.
        size: bytes that the file is known to have; another one is not fetched.
        cache: the folder of the hub's cache; by default the hub client's own.
        endpoint: address of a mirror of the hub.
        token: as in huggingface_hub; by default the one of `hf auth login`, if any.
        progress: shows the MiB as they come.

    Returns:
        The file in the cache, and its sha256 by the hub; None where the hub tells none (small files) or the
        cache forgot it (where symbolic links are impossible).

    Raises:
        DigitError: one sentence, where the hub cannot be reached, has no such file, sends another one than
            it announced, or there is no room.
    """
    try:
        kept = huggingface_hub.try_to_load_from_cache(repo, path, cache_dir=cache, revision=revision)
    except HFValidationError:
        raise DigitError(f"{repo} is no folder here, nor a name on the hub: check the path") from None
    there = Path(kept) if isinstance(kept, str) else None
    if there is not None and not newest:
        return there, _sha256(there.resolve().name)
    url = huggingface_hub.hf_hub_url(repo, path, revision=revision, endpoint=endpoint)
    try:
        about = _within(lambda: huggingface_hub.get_hf_file_metadata(url, token=token, endpoint=endpoint))
        etag, commit, length = _announced(f"{repo} {path}", about, size)
        store = Path(cache or constants.HF_HUB_CACHE)
        name = constants.REPO_ID_SEPARATOR.join(["models", *repo.split("/")])
        lock, blob = store / ".locks" / name / f"{etag}.partial.lock", store / name / "blobs" / etag
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock), progress(f"{path} (MiB)", length // PIECE) as advance:
            _complete(url, blob, length, token, advance, what=f"{repo} {path}")
            return _linked(store / name, path, commit, revision or "main", blob), _sha256(etag)
    except _FAILURES as error:
        if there is not None:
            return there, _sha256(there.resolve().name)
        other = f"fetch {url} by other means and name the folder it is in"
        raise DigitError(
            f"{_refusal(repo, path, error)}, or {other}{'' if newest else ' with --files'}"
        ) from None


def forget(path: Path) -> None:
    """Remove a file from the cache, so that it is fetched anew: the link and what it points to."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _announced(what: str, about: huggingface_hub.HfFileMetadata, size: int | None) -> tuple[str, str, int]:
    """The checksum, commit and size that the hub tells of a file; DigitError if it does not, or lies."""
    if not isinstance(about.size, int) or about.size < 1:
        raise DigitError(f"the hub tells no size of {what}: repeat the command later")
    if size is not None and about.size != size:
        raise DigitError(
            f"the hub says that {what} has {about.size:,} bytes, the published one has {size:,}: look there "
            "for what became of it, or repeat the command later"
        )
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", about.etag or ""):
        raise DigitError(f"the hub tells no checksum of {what}: repeat the command later")
    if not re.fullmatch("[0-9a-f]{40}", about.commit_hash or ""):
        raise DigitError(f"the hub tells no commit of {what}: repeat the command later")
    return str(about.etag), str(about.commit_hash), about.size


def _refusal(repo: str, path: str, error: Exception) -> str:
    """What an error of the hub's client means, and what to do."""
    name = type(error).__name__
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return f"the hub shows no repository {repo} ({name}): log in if it is private"
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return f"the hub's {repo} holds no {path}: look there for where it went"
    if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
        status = error.response.status_code
        return f"the hub answers {status} for {repo} {path}: repeat the command later"
    return (
        f"{repo} {path} is not in the cache and the hub cannot be reached ({name}): connect and repeat the "
        "command"
    )


def _complete(
    url: str, blob: Path, size: int, token: str | bool | None, advance: Callable[[int], None], *, what: str
) -> None:
    """Fetch into `blob` what of `size` bytes is not in its unfinished file yet; its name is the checksum."""
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(f"{blob.name}.partial")
    if not partial.is_file() or partial.is_symlink() or partial.stat().st_size > size:
        remove(partial)
    open_to_append(partial).close()
    done = partial.stat().st_size
    free = shutil.disk_usage(blob.parent).free
    if free < size - done:
        raise DigitError(
            f"{(size - done) / 1e9:.1f} GB are to be fetched into {blob.parent}, where {free / 1e9:.1f} GB "
            "are free: make room, or choose another folder with --cache"
        )
    advance(done // PIECE)
    attempts = fruitless = 0
    while done < size:
        before, failed = done, Unfinished("the answer ends early")
        try:
            for total in _receive(url, partial, done, size, token):
                advance(total // PIECE - done // PIECE)
                done = total
        except HfHubHTTPError:
            raise
        except HTTPError as error:
            failed = error
        done = partial.stat().st_size
        if done > size:
            partial.unlink()
            raise DigitError(f"the hub sends more than the {size:,} bytes it announced of {what}: not taken")
        attempts, fruitless = attempts + 1, 0 if done - before >= min(PIECE, size - before) else fruitless + 1
        if done < size:
            if fruitless == ATTEMPTS or attempts == IN_ALL:
                raise failed
            time.sleep(PAUSE * (1 + fruitless))
    if (found := _checksum(partial, len(blob.name))) != blob.name:
        partial.unlink()
        raise DigitError(
            f"what the hub sent of {what} has the sha256 {found[:12]}, announced was {blob.name[:12]}: it is "
            "removed from the cache, so repeat the command to fetch it anew"
        )
    partial.replace(blob)


def _receive(url: str, partial: Path, done: int, size: int, token: str | bool | None) -> Iterator[int]:
    """Append what follows byte `done`, one byte too many at most; yields how many there are by each piece."""
    headers = build_hf_headers(token=token) | {"Accept-Encoding": "identity", "Range": f"bytes={done}-"}
    # Redirects are followed, and the client sends the token to no other host.
    stream = huggingface_hub.get_session().stream("GET", url, headers=headers, timeout=TIMEOUT)
    response = _within(stream.__enter__)
    try:
        hf_raise_for_status(response)
        part = response.headers.get("Content-Range", f"bytes {done}-")
        if response.status_code == 206 and not part.startswith(f"bytes {done}-"):
            raise Unfinished("the answer is another part of the file")
        with open_to_append(partial) as file:
            if response.status_code != 206:  # a server that starts at the beginning whatever it is asked
                file.truncate(0)
                done = 0
            begun, before = time.monotonic(), done
            for piece in response.iter_raw():  # as it comes: nothing is unpacked
                taken = piece[: size + 1 - done]
                done += len(taken)
                while taken:
                    taken = taken[file.write(taken) :]
                yield done
                if done > size:
                    return
                if (passed := time.monotonic() - begun) > ANSWER and done - before < SLOWEST * passed:
                    raise Unfinished("the answer is too slow")
    finally:
        stream.__exit__(None, None, None)


def _within(work: Callable[[], T]) -> T:
    """What `work` gives or raises within ANSWER seconds; after them Unfinished, and it is left alone."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # goes to the one who waits
            result.set_exception(error)

    threading.Thread(target=run, daemon=True, name="digit-hub").start()
    try:
        return result.result(ANSWER)
    except TimeoutError:
        if result.done():
            raise
        raise Unfinished("there is no answer") from None


def _linked(store: Path, path: str, commit: str, revision: str, blob: Path) -> Path:
    """The file under its name in the cache, as the hub's client would have it."""
    place = store / "snapshots" / commit / path
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        remove(place)
        try:
            place.symlink_to(os.path.relpath(blob, place.parent))
        except OSError:  # a system or file system without links
            blob.replace(place)
    if revision != commit:
        write_text_atomic(store / "refs" / revision, commit)
    return place


def _checksum(path: Path, digits: int) -> str:
    """The sha256 of a file; git's sha1 of it where the hub's checksum has 40 digits, as of small files."""
    with open_regular(path, links=False) as file:
        if digits == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while piece := file.read(PIECE):
            digest.update(piece)
        return digest.hexdigest()


def _sha256(etag: str | None) -> str | None:
    return etag if etag and re.fullmatch("[0-9a-f]{64}", etag) else None

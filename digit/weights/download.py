"""One file of the Hugging Face hub into its cache: goes on where an earlier attempt stopped.

The hub's own client starts a file over when the process ends or the connection is reset, too much for
gigabytes: here the unfinished file is kept beside its place in the cache, and the client links the whole one.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status

from digit.errors import DigitError

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
PIECE = 2**20  # bytes that count as one in progress
ATTEMPTS = 5  # in a row without a byte, before giving up
PAUSE = 1.0  # seconds before another attempt, times the number of those that gave nothing


@contextmanager
def quiet(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Progress that nobody sees: takes a title and a number of MiB, gives `advance(MiB)`."""
    yield lambda count: None


def fetch(
    repo: str,
    path: str,
    *,
    cache: Path | None = None,
    endpoint: str | None = None,
    token: str | bool | None = None,
    progress: Progress = quiet,
) -> tuple[Path, str | None]:
    """A file of the hub, from the cache or fetched into it, and the sha256 that the hub has for it.

    Args:
        repo: owner/name.
        path: of the file in it, on its main branch.
        cache: the folder of the hub's cache; by default the hub client's own.
        endpoint: address of a mirror of the hub.
        token: as in huggingface_hub; by default the one of `hf auth login`, if any.
        progress: shows the MiB as they come.

    Returns:
        The file in the cache, and its sha256 by the hub; None where the hub tells none (small files) or the
        cache forgot it (where symbolic links are impossible).

    Raises:
        DigitError: one sentence, where the hub cannot be reached, has no such file, or there is no room.
    """
    kept = huggingface_hub.try_to_load_from_cache(repo, path, cache_dir=cache)
    if isinstance(kept, str):
        return Path(kept), _sha256(Path(kept).resolve().name)
    url = huggingface_hub.hf_hub_url(repo, path, endpoint=endpoint)
    advice = f"or fetch {url} by other means and name the folder it is in with --files"
    try:
        about = huggingface_hub.get_hf_file_metadata(url, token=token, endpoint=endpoint)
        expected = _sha256(about.etag)
        if expected and about.size:
            store = Path(cache or constants.HF_HUB_CACHE)
            name = constants.REPO_ID_SEPARATOR.join(["models", *repo.split("/")])
            lock = store / ".locks" / name / f"{expected}.partial.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock), progress(f"{path} (MiB)", about.size // PIECE) as advance:
                _complete(url, store / name / "blobs" / expected, about.size, token, advance)
        kept = huggingface_hub.hf_hub_download(repo, path, cache_dir=cache, endpoint=endpoint, token=token)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DigitError(
            f"the hub shows no repository {repo} ({type(error).__name__}): log in if it is private, {advice}"
        ) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, FileMetadataError) as error:
        raise DigitError(_unreachable(repo, path, error, advice)) from None
    except EntryNotFoundError:
        raise DigitError(
            f"the hub's {repo} holds no {path}: look there for where it went, {advice}"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise DigitError(
            f"the hub answers {status} for {repo} {path}: repeat the command later, {advice}"
        ) from None
    except HTTPError as error:
        raise DigitError(_unreachable(repo, path, error, advice)) from None
    return Path(kept), expected


def forget(path: Path) -> None:
    """Remove a file from the cache, so that it is fetched anew: the link and what it points to."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _complete(
    url: str, blob: Path, size: int, token: str | bool | None, advance: Callable[[int], None]
) -> None:
    """Fetch into `blob` what of `size` bytes is not in its unfinished file yet."""
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(f"{blob.name}.partial")
    partial.touch()
    if partial.stat().st_size > size:
        partial.unlink()
        partial.touch()
    done, fruitless = partial.stat().st_size, 0
    free = shutil.disk_usage(blob.parent).free
    if free < size - done:
        raise DigitError(
            f"{(size - done) / 1e9:.1f} GB are to be fetched into {blob.parent}, where {free / 1e9:.1f} GB "
            "are free: make room, or choose another folder with --cache"
        )
    advance(done // PIECE)
    while done < size:
        before = done
        try:
            for total in _receive(url, partial, done, token):
                advance(total // PIECE - done // PIECE)
                done = total
        except HfHubHTTPError:
            raise
        except HTTPError:
            done = partial.stat().st_size
            fruitless = 0 if done > before else fruitless + 1
            if fruitless == ATTEMPTS:
                raise
            time.sleep(PAUSE * (1 + fruitless))
    partial.replace(blob)


def _receive(url: str, partial: Path, done: int, token: str | bool | None) -> Iterator[int]:
    """Append what follows byte `done`; yields how many bytes there are after each piece."""
    headers = build_hf_headers(token=token) | {"Accept-Encoding": "identity", "Range": f"bytes={done}-"}
    # Redirects are followed, and the client sends the token to no other host.
    with huggingface_hub.get_session().stream("GET", url, headers=headers, timeout=30) as response:
        hf_raise_for_status(response)
        with partial.open("ab") as file:
            if response.status_code != 206:  # a server that starts at the beginning whatever it is asked
                file.truncate(0)
                done = 0
            for piece in response.iter_bytes():
                file.write(piece)
                done += len(piece)
                yield done


def _sha256(etag: str | None) -> str | None:
    return etag if etag and re.fullmatch("[0-9a-f]{64}", etag) else None


def _unreachable(repo: str, path: str, error: Exception, advice: str) -> str:
    return (
        f"{repo} {path} is not in the cache and the hub cannot be reached ({type(error).__name__}): "
        f"connect and repeat the command, {advice}"
    )

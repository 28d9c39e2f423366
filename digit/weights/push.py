"""A model's folder -> a repository of the Hugging Face hub, in one commit, by the hub's own client."""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import disable_progress_bars
from PIL import Image

from digit.errors import DigitError, first_line
from digit.opening import read_file
from digit.progress import say
from digit.weights.artifact import CONFIG, MODEL, verify
from digit.weights.card import CARD, GRID, MOST, beside
from digit.weights.model_folder import check_parts, read_config

_LARGEST = 2**26  # bytes of a picture that lies beside a model
_FAILURES = (HTTPError, OfflineModeIsEnabled, LocalTokenNotFoundError, OSError, ValueError, RuntimeError)


def push_folder(
    folder: Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    draw: Callable[[], Image.Image] | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a model, and nothing else that lies in its folder; the address of the commit.

    The parts are compared with their checksums before. Beside them go the card (README.md as it is, where
    somebody wrote or changed it), the pipeline for diffusers and grid.png. The folder stays as it is.

    Args:
        folder: a model, as `save_model` writes it.
        name: owner/name; the repository is made if it is not there.
        private: make it one that only its owner sees; one that is there stays as it is.
        revision: a branch, made if it is not there; main by default.
        draw: makes the picture for the card, where the folder has no grid.png.
        token: as in huggingface_hub; by default the one of `hf auth login`.
        endpoint: address of a mirror of the hub.

    Raises:
        DigitError: no whole model, no such right, or the hub does not answer; nothing is committed then.
    """
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise DigitError(f"{name} is no repository of the hub: give OWNER/NAME")
    config = read_config(folder)
    artifacts = {part: verify(folder / part, kind=part) for part in config["parts"]}
    check_parts(artifacts)
    large = [f"{part}/{MODEL}" for part in artifacts]
    small = [CONFIG, *(f"{part}/{CONFIG}" for part in artifacts)]
    files: dict[str, str | bytes] = {file: str((folder / file).absolute()) for file in large}
    files |= {file: _read(folder / file) for file in small}
    if not sys.stderr.isatty():  # its client draws bars into files too
        disable_progress_bars()
    api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        files |= _pictured(folder, draw)
        made = beside(folder, config, artifacts, pictured=GRID in files, name=name)
        files |= {file: text.encode() for file, text in made.items()}
        if CARD not in files:
            say(f"{folder / CARD} was changed by hand: it is the card as it is")
            files[CARD] = _read(folder / CARD)
        commit = api.create_commit(
            name,
            [
                huggingface_hub.CommitOperationAdd(file, content)  # by its place: xet reads no open files
                for file, content in files.items()
            ],
            commit_message=f"A model of digit: {', '.join(artifacts)}",
            revision=revision,
        )
    except DigitError:
        raise
    except _FAILURES as error:
        threads = isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception)
        raise DigitError(_refusal(name, error.__cause__ if threads else error)) from None  # pyright: ignore
    return str(commit.commit_url)


def push_pipeline(
    pipeline: Any, name: str, *, private: bool = False, revision: str | None = None, **how: Any
) -> str:
    """The same of a pipeline, saved as `how` says; the address of the commit."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, **how)
        told: dict[str, Any] = {"private": private, "revision": revision}
        return push_folder(Path(folder), name, draw=lambda: sheet(pipeline), **told)


def sheet(pipeline: Any) -> Image.Image:
    """What a pipeline draws for the seeds 0 to 15, in four rows."""
    images = pipeline(seeds=range(16)).images
    side = images[0].width
    whole = Image.new("RGB", (4 * side, 4 * side))
    for i, image in enumerate(images):
        whole.paste(image, (i % 4 * side, i // 4 * side))
    return whole


def _pictured(folder: Path, draw: Callable[[], Image.Image] | None) -> dict[str, str | bytes]:
    """The picture of the card: the folder's own, or one that is drawn now."""
    if (folder / GRID).exists():
        return {GRID: _read(folder / GRID)}
    if draw is None:
        return {}
    file = io.BytesIO()
    draw().save(file, "png")
    return {GRID: file.getvalue()}


def _read(path: Path) -> bytes:
    """What lies beside the weights, which no checksum vouches for: a link would lead to anybody's file."""
    try:
        return read_file(path, links=False, most=MOST if path.name == CARD else _LARGEST)
    except OSError as error:
        raise DigitError(f"{path} cannot be uploaded ({error.strerror}): put a file there") from None


def _refusal(name: str, error: Exception) -> str:
    """What an error of the hub's client means, and what to do."""
    kind = type(error).__name__
    if isinstance(error, HFValidationError):
        return f"{name} is no repository of the hub ({first_line(error)}): give OWNER/NAME"
    if isinstance(error, OfflineModeIsEnabled):
        return "the hub is not asked, as HF_HUB_OFFLINE is set: unset it and repeat the command"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"the hub refuses {name} ({status}): log in by `hf auth login` with a token that may write"
        return f"the hub answers {status} to {name} ({first_line(error)[:200]}): repeat the command later"
    if isinstance(error, LocalTokenNotFoundError):
        return f"{name} needs a token of the hub: log in by `hf auth login`"
    return f"{name} was not uploaded ({kind}: {first_line(error)[:200]}): connect and repeat the command"

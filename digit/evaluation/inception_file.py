"""The file of FID's InceptionV3: given, in torch-fidelity's cache, or fetched from its releases."""

import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from digit.errors import DigitError
from digit.evaluation.inception import Inception
from digit.files import atomic_path, sha256_file
from digit.weights.foreign import read

SHA256 = "6726825d"  # how the sha256 of the published file begins
NAME = f"weights-inception-2015-12-05-{SHA256}.pth"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAME}"
TIMEOUT = 20.0  # seconds without an answer


class Read(NamedTuple):
    """A filled network and where its weights came from."""

    module: Inception
    tensors: dict[str, Tensor]  # as in the file
    sha256: str  # of the file
    official: bool  # whether it is the published one


def read_inception(given: Path | None = None) -> Read:
    """InceptionV3 with the weights of `given`, a .pth or .safetensors file in torch-fidelity's layout.

    Without a file: the one in torch-fidelity's cache, else it is fetched into there (91 MB). Raises
    DigitError, one sentence, if it cannot be had or holds something else.
    """
    path = _cached() if given is None else given
    if not path.is_file():
        raise DigitError(f"{path} does not exist: download {ADDRESS} and name it with --inception-weights")
    tensors = read(path)
    if not isinstance(tensors, dict) or "Conv2d_1a_3x3.conv.weight" not in tensors:
        raise DigitError(f"{path} holds no InceptionV3 as torch-fidelity names its tensors: give {NAME}")
    with torch.random.fork_rng([]):  # building draws random weights, which are thrown away
        module = Inception()
    module.fill(tensors, where=str(path))
    sha256 = sha256_file(path)
    return Read(module, tensors, sha256, sha256.startswith(SHA256))


def _cached() -> Path:
    """torch-fidelity's own place for the file; fetched if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / NAME
    if path.is_file():
        return path
    try:
        with atomic_path(path) as temporary:
            with urllib.request.urlopen(ADDRESS, timeout=TIMEOUT) as answer, temporary.open("wb") as file:
                shutil.copyfileobj(answer, file)
            if not sha256_file(temporary).startswith(SHA256):
                raise DigitError(f"{ADDRESS} gives another file than published: repeat the command later")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DigitError(
            f"InceptionV3's weights are not at {path} and cannot be fetched ({error}): download {ADDRESS} "
            "elsewhere and name the file with --inception-weights"
        ) from None
    return path

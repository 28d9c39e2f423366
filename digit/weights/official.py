"""The files the authors published: where they are, what the paper reports, and whether a file is one."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from digit.errors import DigitError
from digit.nn.sampling import SamplerConfig
from digit.opening import open_regular
from digit.progress import progress as shown
from digit.weights.hub import PIECE, Progress, fetch, forget

Reference = Literal["pinned", "hub", "nothing"]


@dataclass(frozen=True)
class OfficialFile:
    """A published file. None: not known here; then the hub's own sha256 is the reference."""

    repo: str  # owner/name on the Hugging Face hub
    path: str  # in the repository
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Published:
    """What the paper reports: 50,000 samples against ImageNet's 50,000 validation images, 256 pixels."""

    fid: float
    inception_score: float
    where: str  # the table and its row


@dataclass(frozen=True)
class OfficialModel:
    """The files of one published model and how the authors sample from it."""

    prior: OfficialFile
    renderer: OfficialFile
    centroids: OfficialFile
    vqgan: OfficialFile
    top_k: int  # of the prior, temperature 1
    published: Published
    renderer_top_p: float = 0.8  # temperature 1
    encoder_heads: int | None = None  # attention heads; None: those that the encoder's width implies
    image_size: int = 256  # pixels

    @property
    def renderer_sampling(self) -> SamplerConfig:
        """How the authors draw VQ codes: fairseq counts special symbols before it cuts."""
        return SamplerConfig(top_p=self.renderer_top_p, top_p_of="vocabulary")


def _checkpoint(run: str, bytes: int | None = None, sha256: str | None = None) -> OfficialFile:
    return OfficialFile("DAMO-NLP-SG/DiGIT", f"outputs/{run}/checkpoints/checkpoint_last.pt", bytes, sha256)


_DATA = "dataset/ILSVRC2012"
_CENTROIDS_8K = OfficialFile(
    "DAMO-NLP-SG/DiGIT",
    f"{_DATA}/dinov2_base_short_224_l3/km_8k.npy",
    25_165_952,
    "7d9edb4b9468751b6088dca6d909e6c4173d2892e62ae6460b800aca10afc6cf",
)
_CENTROIDS_16K = OfficialFile(  # 16000 centroids, not 16384
    "DAMO-NLP-SG/DiGIT",
    f"{_DATA}/dinov2_large_short_224_l3/km_16k.npy",
    65_536_128,
    "67b6efc619d638409d5179ac325cd1f59bdd5a7b50065b4d36acb1b5e8bd0c11",
)
_VQGAN = OfficialFile(  # MaskGIT's, as MAGE converted it; this is a copy of MAGE's file
    "zideliu/vqgan",
    "vqgan_jax_strongaug.ckpt",
    218_130_007,
    "bac193bccc890db48c498e36ac5a6f2b0e067d3eb360669bd4c2250bf1ae4c6d",
)
_BASE_RENDERER = _checkpoint(
    "base_8k_stage2_400epoch",
    1_446_434_572,
    "e1b8a469037211deb89f62d69512673af852c83256cb157cff8b2a1f58192f73",
)
_BASE_CLASSES = Published(4.79, 142.87, "table 4, 219M, 200 epochs (the authors' README: 400)")


def _base(run: str, bytes: int, sha256: str, top_k: int, published: Published) -> OfficialModel:
    prior = _checkpoint(run, bytes, sha256)
    return OfficialModel(prior, _BASE_RENDERER, _CENTROIDS_8K, _VQGAN, top_k, published)


def _large(prior: OfficialFile, published: Published) -> OfficialModel:
    return OfficialModel(prior, _checkpoint("large_16k_stage2"), _CENTROIDS_16K, _VQGAN, 400, published)


OFFICIAL: dict[str, OfficialModel] = {
    "base": _base(
        "base_8k_stage1",
        1_249_237_258,
        "3ddff6a599ccf0aac6f43c0e087cd13de278a9a61ee1e4554904b49c4788548b",
        200,
        Published(9.66, 69.15, "figure 3a, discriminative codes, 200 epochs"),
    ),
    "base_400": _base(
        "base_8k_stage1_400epoch",
        1_249_237_258,
        "bb5f0dc5c8a2b4bb921bb87cbf0209d31eb0b77d8e8e9c5474c9c40ea1717676",
        200,
        Published(9.13, 73.85, "table 3, 219M, 400 epochs"),
    ),
    "base_cond": _base(
        "base_8k_stage1_cls",
        1_253_333_258,
        "6e17c6ee076933ecde2fa57e83046ec114f83b98ab812abcd3e6d73dcabffd8a",
        300,
        _BASE_CLASSES,
    ),
    "base_cond_400": _base(
        "base_8k_stage1_cls_400epoch",
        1_253_333_322,
        "7cbb1be22c5ccbb3216e2d84022cc8176caf845593351b824d06013d7b9c4700",
        300,
        _BASE_CLASSES,
    ),
    "large": _large(
        _checkpoint(
            "large_16k_stage1",
            sha256="edccc2f6b8bb7fb86a383faa1d330cbfe1d66ac9baf8be84ec81ebe366251931",
        ),
        Published(4.59, 141.29, "table 3, 732M, 200 epochs"),
    ),
    "large_cond": _large(
        _checkpoint("large_16k_stage1_cls"), Published(3.39, 205.96, "table 4, 732M, 200 epochs")
    ),
}


@dataclass(frozen=True)
class Checked:
    """A file on this disk, its sha256, and what that was compared with."""

    path: Path
    sha256: str
    against: Reference


def download(
    file: OfficialFile,
    *,
    files: Path | None = None,
    cache: Path | None = None,
    endpoint: str | None = None,
    progress: Progress = shown,
) -> Checked:
    """The published file on this disk, fetched if need be, its size and sha256 checked.

    Nothing is fetched where the folder `files` holds it, under its path in the repository or the end of that
    path, and nothing in there is ever changed. `cache`, `endpoint`: see `fetch`. `progress` shows the MiB
    fetched, then the MiB hashed. The sha256 is compared with the one pinned here, the hub's, or nothing
    (`files` with a file whose sha256 is not known here).

    Raises:
        DigitError: one sentence, where the file cannot be had or is not the published one; a wrong file in
            the cache is removed, so that repeating the command fetches it anew.
    """
    if files is not None:
        path, hubs = _local(file, files), None
    else:
        how = {"cache": cache, "endpoint": endpoint, "progress": progress}
        path, hubs = fetch(file.repo, file.path, size=file.bytes, **how)
    expected = file.sha256 or hubs
    size = path.stat().st_size
    found = None
    if file.bytes is None or size == file.bytes:
        with progress(f"sha256 of {PurePosixPath(file.path).name} (MiB)", size // PIECE) as advance:
            found = _hash(path, advance)
        if expected is None or found == expected:
            return Checked(path, found, "pinned" if file.sha256 else "hub" if hubs else "nothing")
    wrong = f"sha256 {found[:12]}" if found else f"{size:,} bytes"
    right = f"sha256 {expected[:12]}" if found and expected else f"{file.bytes:,} bytes"
    if files is not None:
        advice = "copy it again, or point --files at another folder"
    else:
        forget(path)
        advice = "it is removed from the cache, so repeat the command to fetch it anew"
    raise DigitError(f"{path} has {wrong}, the published {file.path} has {right}: {advice}")


def _local(file: OfficialFile, folder: Path) -> Path:
    """The file in a folder of files: under its whole path first, then ever less of it, its bare name last."""
    parts = PurePosixPath(file.path).parts
    for start in range(len(parts)):
        if (path := folder.joinpath(*parts[start:])).is_file():
            return path
    raise DigitError(
        f"--files {folder} holds no {file.path}: fetch it from the hub's {file.repo} into that place, or "
        "leave --files out"
    )


def _hash(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(8 * PIECE):
            digest.update(piece)
            advance(len(piece) // PIECE)
    return digest.hexdigest()

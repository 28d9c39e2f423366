"""A tokenised data set on disk: one uint16 array (images, views, codes) per kind of code, labels, checksums.

A directory with `meta.json` (provenance; written last: without it the set is unfinished), `codes.npy`
and/or `vq_codes.npy`, and `labels.npy` where the pictures have classes. Unfinished work lies in `parts/`
and is taken up by the same call.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Int, UInt16
from pydantic import Field
from torch import Tensor

from digit.arrays import array_in
from digit.bounds import MANY, Batch
from digit.calls import checked
from digit.data.ahead import sent
from digit.data.order import order
from digit.data.wrong_codes import WrongCodes
from digit.distributed import on_main, share
from digit.entries import Text, entries
from digit.errors import DigitError
from digit.files import read_json
from digit.nn.batch import CodeBatch
from digit.opening import open_regular, sha256_of

FORMAT = 1
ROWS = 2048  # images of a block that is read at once


_TYPES: dict[str, Any] = {  # of what a meta.json holds; older ones have not all
    "images": Annotated[int, Field(ge=0, lt=2**40)],
    "views": Annotated[int | None, Field(ge=1, le=MANY)],
    "size": Annotated[int | None, Field(ge=1, le=2**14)],
    "streams": dict[Literal["codes", "vq_codes"], dict[str, Any]],
    "labelled": bool,
    "classes": list[Text],
    "source": dict[str, Any] | None,
    "plan": dict[str, Any] | None,
    "skipped": list[list[Text]] | None,
    "files": dict[Literal["codes.npy", "vq_codes.npy", "labels.npy"], str],
}
_KIND: dict[str, Any] = {"artifact": Text, "vocabulary": Annotated[int, Field(ge=1, le=2**16)]}  # uint16


class Codes:
    """An opened tokenised data set.

    Attributes: `meta` (the content of meta.json), `labels` (int64, one per image, or None), `classes` (their
    names).
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        """Open `path`; with `verify`, compare every file with its checksum.

        Raises:
            DigitError: not a finished tokenised data set, or a file differs from what was written.
        """
        self.path = Path(path)
        path = self.path / "meta.json"
        if not path.is_file():
            hint = (
                "is unfinished: repeat the same `digit tokenize` to complete it"
                if (self.path / "parts").is_dir()
                else "holds no tokenised data set (no meta.json): make one with `digit tokenize`"
            )
            raise DigitError(f"{self.path} {hint}")
        try:
            self.meta: dict[str, Any] = read_json(path)
        except DigitError as error:
            raise DigitError(
                f"the codes are damaged ({error}): or delete {self.path} and repeat `digit tokenize`"
            ) from None
        _check_meta(self.meta, path, verify=verify)
        digests = self.meta["files"] if verify else {}
        self._arrays = {name: self._codes(name, digests.get(f"{name}.npy")) for name in self.meta["streams"]}
        self.classes: list[str] = self.meta["classes"]
        self.labels = self._labels(digests.get("labels.npy")) if self.meta["labelled"] else None
        if verify:
            self._check_numbers()

    def __len__(self) -> int:
        """Number of images."""
        return int(self.meta["images"])

    def array(self, name: str) -> np.ndarray:
        """The memory-mapped uint16 array (images, views, codes) called `name`: "codes" or "vq_codes"."""
        if name not in self.meta["streams"]:
            option = {"codes": "--tokenizer", "vq_codes": "--vqgan"}[name]
            raise DigitError(
                f"{self.path} holds no {name}: repeat `digit tokenize` with {option} into a new folder"
            )
        return self._arrays[name]

    def blocks(self, name: str, *, rows: int = ROWS) -> Iterator[UInt16[np.ndarray, "m v n"]]:
        """The array called `name`, `rows` images at once; read, as touched pages of a map stay in memory."""
        array: Any = self.array(name)
        shape, left = array.shape[1:], array.nbytes
        with open_regular(self.path / f"{name}.npy") as file:
            file.seek(array.offset)
            while left and (data := file.read(min(left, rows * shape[0] * shape[1] * 2))):
                left -= len(data)
                yield np.frombuffer(data, "<u2").reshape(-1, *shape)

    def _codes(self, name: str, digest: str | None) -> np.ndarray:
        """The memory map of an array; DigitError where the file holds something else."""
        array = _array(self.path / f"{name}.npy", digest)
        fits = array.ndim == 3 and array.dtype == np.uint16 and len(array) == len(self)
        fits = fits and array.shape[1] > 0  # views
        if not (fits and array.flags.c_contiguous):
            raise DigitError(f"{self.path / name}.npy holds no codes of {len(self)} images")
        return array

    def _labels(self, digest: str | None) -> Int[np.ndarray, " n"]:
        """The labels; DigitError where the file holds something else."""
        path = self.path / "labels.npy"
        labels = _array(path, digest)
        if labels.shape != (len(self),) or labels.dtype.kind not in "iu":
            raise DigitError(f"{path} does not hold one whole number for each image")
        return labels.astype(np.int64)

    def _check_numbers(self) -> None:
        """DigitError for codes beyond their vocabulary, and labels beyond the classes."""
        for name in self._arrays:
            most = max((int(block.max(initial=0)) for block in self.blocks(name)), default=0)
            if most >= self.vocabulary(name) and self._arrays[name].size:
                raise DigitError(
                    f"{self.path / name}.npy holds the code {most}, and meta.json says that there are "
                    f"{self.vocabulary(name)}: copy both again, or repeat `digit tokenize`"
                )
        if self.labels is not None and len(self.labels):
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= len(self.classes):
                raise DigitError(
                    f"{self.path / 'labels.npy'} holds labels from {low} to {high} for {len(self.classes)} "
                    "classes: copy it and meta.json again, or repeat `digit tokenize`"
                )

    def vocabulary(self, name: str) -> int:
        """Number of different codes in the array called `name`."""
        self.array(name)  # DigitError if there is none
        return int(self.meta["streams"][name]["vocabulary"])

    def length(self, name: str) -> int:
        """Codes per image in the array called `name`."""
        return int(self.array(name).shape[2])

    def check_square(self, *names: str) -> None:
        """DigitError unless the codes of each array fill a square, as pictures are drawn from one."""
        for name in names:
            length = self.length(name)
            if length < 1 or math.isqrt(length) ** 2 != length:
                raise DigitError(
                    f"{self.path / name}.npy has {length} codes per picture, which fill no square, so that "
                    "nothing could be drawn: repeat `digit tokenize`"
                )

    def lineage(self, *names: str) -> dict[str, str]:
        """The ids of the artifacts that made the arrays called `names`, or all there are."""
        made_by = {"codes": "tokenizer", "vq_codes": "vqgan"}
        return {
            made_by[name]: self.meta["streams"][name]["artifact"]
            for name in names or self.meta["streams"]
            if len(self.array(name))
        }


@checked
def open_codes(path: Path) -> Codes:
    """The set in `path`; of several processes, all of which call, the main one compares the checksums."""

    on_main(lambda: len(Codes(path)))
    return Codes(path, verify=False)


class CodeData:
    """Training data out of a tokenised set: `data(step)` is a pure function of (seed, step).

    Of several processes each gets its own rows of the batch, and reads no others. Which picture and which
    view a row has does not depend on how many there are. Raises DigitError where `batch_size`, which is that
    of all together, does not divide among them.
    """

    @checked
    def __init__(
        self,
        codes: Codes,
        *,
        batch_size: Batch,
        arrays: tuple[str, ...] = ("codes",),
        seed: int = 0,
        device: torch.device | str = "cpu",
        memory_limit_bytes: int = 4_000_000_000,
        wrong: WrongCodes | None = None,
    ) -> None:
        """`arrays`: one name (it becomes the batch's `codes`) or ("codes", "vq_codes"), of one view.

        `wrong`: how many of the batch's `codes` are wrong on purpose; DigitError for near codes of another
        vocabulary.
        """
        if wrong is not None and len(wrong.near) != codes.vocabulary(arrays[0]):
            raise DigitError(
                f"the near codes are those of {len(wrong.near)} centroids, {codes.path} has "
                f"{codes.vocabulary(arrays[0])}: give those of its own tokenizer"
            )
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self._here = share(batch_size, "training: batch")
        self._wrong = wrong and replace(wrong, near=wrong.near.to(self.device))
        # uint16 has few operations in torch: the same bits travel as int16 and are widened after the gather.
        maps = [codes.array(name).view(np.int16) for name in arrays]
        self.images, self.views = maps[0].shape[:2]
        fits = sum(array.nbytes for array in maps) <= memory_limit_bytes
        self._arrays = [torch.from_numpy(np.array(a)).to(self.device) if fits else a for a in maps]
        self._labels = None if codes.labels is None else torch.from_numpy(codes.labels).to(self.device)

    def __call__(self, step: int) -> CodeBatch:
        """This process's rows of the batch of `step`: each image once an epoch, in one of its views."""
        rows, view = self.chosen(step)
        picked = []
        for array in self._arrays:
            if isinstance(array, Tensor):
                part = array.flatten(0, 1)[sent(rows * self.views + view, array.device)]
            else:
                part = sent(array[rows, view], self.device)
            picked.append(part.long() & 0xFFFF)
        if self._wrong is not None:
            where = {"seed": self.seed, "step": step, "batch": self.batch_size, "here": self._here}
            picked[0] = self._wrong.among(picked[0], **where)
        labels = None if self._labels is None else self._labels[sent(rows, self.device)]
        return CodeBatch(picked[0], labels, picked[1] if len(picked) > 1 else None)

    def chosen(self, step: int) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """The pictures of this process's rows, as places in the set, and the view of each."""
        rows = order(self.seed, step, self.batch_size, self.images)
        view = np.random.default_rng((self.seed, step, 1)).integers(self.views, size=self.batch_size)
        return rows[self._here], view[self._here]


def _array(path: Path, digest: str | None) -> np.ndarray:
    """The array of a file, mapped; DigitError if it holds none, or objects that would have to be unpickled.

    With `digest` its bytes are compared with that sha256.
    """
    other = DigitError(
        f"{path} is missing or damaged (its checksum differs): delete {path.parent} and repeat "
        "`digit tokenize`"
    )
    try:
        with open_regular(path) as file:
            if digest is not None and sha256_of(file) != digest:
                raise other
            return array_in(file, path)
    except FileNotFoundError:
        raise other from None
    except OSError as error:
        raise DigitError(f"{path} cannot be read ({error.strerror}): copy it again") from None


def _check_meta(meta: Any, path: Path, *, verify: bool) -> None:
    """DigitError unless `meta`, which may come from anywhere, has what a tokenised data set is read by."""
    if isinstance(meta, dict) and meta.get("format") != FORMAT:
        raise DigitError(
            f"{path.parent} has format {str(meta.get('format'))[:40]}, this version reads {FORMAT}"
        )
    entries(meta, _TYPES, where=path, remedy="repeat `digit tokenize`")
    for name, part in meta["streams"].items():
        entries(part, _KIND, where=f"{path}: {name}", remedy="repeat `digit tokenize`")
    whole = all(len(row) == 2 for row in meta.get("skipped") or ())
    if verify:
        needed = {f"{name}.npy" for name in (*meta["streams"], *(["labels"] if meta["labelled"] else []))}
        whole = whole and needed <= set(meta["files"])
    if not whole:
        raise DigitError(f"{path} does not describe a tokenised data set: repeat `digit tokenize`")

"""Training data of codes with their pixels: those of the very views that were tokenised."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from digit.bounds import Batch, Seed
from digit.calls import checked
from digit.data.ahead import Ahead, sent
from digit.data.codes import CodeData, Codes
from digit.data.identity import of_images
from digit.data.images import ImageSource
from digit.data.loader import Report, load_pixels, stream
from digit.data.wrong_codes import WrongCodes
from digit.entries import entries
from digit.errors import DigitError
from digit.nn.batch import ViewBatch
from digit.progress import say

_AT_ONCE = 64  # pictures decoded between two reports of progress


class ViewData:
    """`data(step)` gives codes and labels as `CodeData` of the same seed does, with the pixels of each row.

    They are rendered as they were when the set was tokenised, of its size. Of several processes each gets its
    own rows of the batch. A set whose uint8 pixels fit `memory_limit_bytes` is decoded once and kept on the
    device; a larger one is decoded one step ahead in the background. Both give the same pixels.
    """

    @checked
    def __init__(
        self,
        codes: Codes,
        source: ImageSource,
        *,
        batch_size: Batch,
        seed: int = 0,
        device: torch.device | str = "cpu",
        memory_limit_bytes: int = 2_000_000_000,
        wrong: WrongCodes | None = None,
        threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Decodes the whole set when it fits; `progress(done, total)` is called meanwhile.

        With `wrong` some of the codes beside the pixels are wrong on purpose.

        Raises:
            DigitError: `source` is not what was tokenised, compared by names, classes and bytes as
                `digit.data.identity` does; the set holds no codes of a tokenizer; `batch_size`, which is that
                of all processes together, does not divide among them; or, then or at a step, a picture that
                was tokenised cannot be read any more.
        """
        codes.array("codes")  # DigitError if there is none
        self.device = torch.device(device)
        self._source = tokenised(codes, source)
        self._codes = CodeData(codes, batch_size=batch_size, seed=seed, device=device, wrong=wrong)
        told = views_of(codes)
        self._size, self._seed, self._threads = told["size"], told["plan"]["seed"], threads
        # View 1 is the mirror of view 0, which is made of it on the device.
        self._rendered = [view for view in range(self._codes.views) if view != 1]
        fits = len(codes) * len(self._rendered) * 3 * self._size**2 <= memory_limit_bytes
        self._pixels = self._decode_all(progress).to(self.device) if fits else Ahead(self._fetch)

    def __len__(self) -> int:
        """Number of pictures, without those that were left out when the set was tokenised."""
        return len(self._source)

    def __call__(self, step: int) -> ViewBatch:
        """This process's rows of the batch of `step`, counted from 0."""
        pictures, views = self._codes.chosen(step)
        if isinstance(self._pixels, Ahead):
            pixels = sent(self._pixels(step), self.device)
        else:
            rows = pictures * len(self._rendered) + np.maximum(views - 1, 0)
            pixels = self._pixels[sent(rows, self.device)]
        mirrored = sent(views == 1, self.device)[:, None, None, None]
        pixels = torch.where(mirrored, pixels.flip(3), pixels).float().div_(255)
        batch = self._codes(step)
        return ViewBatch(pixels, batch.codes, batch.labels)

    def _decode_all(self, progress: Callable[[int, int], None] | None) -> UInt8[Tensor, "n 3 s s"]:
        """All that is rendered of the first picture, then of the second, and so on."""
        total, each, report = len(self), len(self._rendered), Report()
        stored = torch.empty(total, each, 3, self._size, self._size, dtype=torch.uint8)
        how = {"views": self._rendered[-1] + 1, "seed": self._seed, "threads": self._threads}
        for rows, pixels in stream(
            self._source, self._size, batch_size=_AT_ONCE, report=report, empty=True, **how
        ):
            self._check(report)
            stored[torch.from_numpy(rows)] = pixels[:, self._rendered]
            if progress is not None:
                progress(int(rows[-1]) + 1, total)
        return stored.flatten(0, 1)

    def _fetch(self, step: int) -> UInt8[Tensor, "b 3 s s"]:
        """The pixels of a step, not mirrored yet."""
        (pictures, views), report = self._codes.chosen(step), Report()
        views = np.where(views == 1, 0, views)
        pixels = torch.empty(len(views), 3, self._size, self._size, dtype=torch.uint8)
        how = {"seed": self._seed, "threads": self._threads, "report": report}
        for view in np.unique(views).tolist():
            rows = np.flatnonzero(views == view)
            _, rendered = load_pixels(self._source, pictures[rows], self._size, view=view, **how)
            self._check(report)
            pixels[torch.from_numpy(rows)] = rendered
        return pixels

    def _check(self, report: Report) -> None:
        """DigitError for the first picture that could not be read: its codes would stand beside no pixels."""
        _check_readable(self._source, report)


def first_views(codes: Codes, source: ImageSource, places: Int[np.ndarray, " b"]) -> ViewBatch:
    """The centre crops of the pictures at `places` with their codes and labels, on the CPU.

    `source` is what `tokenised` gave. DigitError where a picture cannot be read any more.
    """
    report = Report()
    _, pixels = load_pixels(source, places, codes.meta["size"], report=report)
    _check_readable(source, report)
    own = torch.from_numpy(codes.array("codes")[places, 0].astype(np.int64))
    labels = None if codes.labels is None else torch.from_numpy(codes.labels[places])
    return ViewBatch(pixels.float() / 255, own, labels)


def _check_readable(source: ImageSource, report: Report) -> None:
    for name, reason in report.skipped:
        raise DigitError(
            f"{name} in {source.path} was tokenised and cannot be read any more ({reason}): "
            "restore it, or repeat `digit tokenize` into a new folder"
        )


def views_of(codes: Codes) -> dict[str, Any]:
    """What says how the pictures of `codes` were rendered: `size`, the `seed` of `plan`; DigitError else."""
    where: Any = {"where": codes.path / "meta.json", "remedy": "repeat `digit tokenize`"}
    meta = entries(codes.meta, {"size": int, "plan": dict[str, Any]}, **where)
    entries(meta["plan"], {"seed": Seed}, **where)
    return meta


def tokenised(codes: Codes, source: ImageSource) -> ImageSource:
    """The pictures of `source` that the rows of `codes` are of, as many of them as were tokenised.

    Raises:
        DigitError: they are not those that were tokenised, by names, classes and bytes.
    """
    plan, left_out = views_of(codes)["plan"], codes.meta.get("skipped") or []
    source = source.spread(len(codes) + len(left_out))
    if "content" in plan:
        same = of_images(source)["content"] == plan["content"]
    elif same := source.fingerprint == plan.get("source"):
        say(f"{codes.path} is of an older version: names, sizes and classes of pictures are compared only")
    skipped = dict(left_out)
    there = [i for i, name in enumerate(source.names) if name not in skipped]
    if not same or len(there) != len(codes):
        raise DigitError(
            f"{source.path} does not hold the pictures that {codes.path} was made of (their names, bytes or "
            "classes differ): give those, or repeat `digit tokenize` with these into a new folder"
        )
    return source.select(there) if skipped else source

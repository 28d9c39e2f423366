"""codes -> numbers, and codes -> the patches that they stand for: is the codebook used, and for what?"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from digit.errors import DigitError
from digit.tokenizer import Tokenizer


def codebook_report(codes: np.ndarray | Iterable[np.ndarray], k: int) -> dict[str, int | float]:
    """How evenly an array of codes, or one in pieces where it is too large, uses its codebook of k.

    Returns used and dead codes, usage (share of the k codes used, in [0, 1]), entropy in bits (up to log2 k),
    perplexity (two to the entropy: the size of an evenly used codebook with the same entropy).

    Raises:
        DigitError: no codes, or a code outside 0 .. k - 1.
    """
    counts = np.zeros(k, dtype=np.int64)
    for part in [codes] if isinstance(codes, np.ndarray) else codes:
        if part.size and (part.min() < 0 or part.max() >= k):
            raise DigitError(
                f"codes run from {part.min()} to {part.max()}, the codebook has {k}: pass their tokenizer"
            )
        counts += np.bincount(part.reshape(-1).astype(np.int64), minlength=k)
    if not counts.any():
        raise DigitError("there are no codes to report on: tokenize at least one picture")
    used = int(np.count_nonzero(counts))
    share = counts[counts > 0] / counts.sum()
    entropy = max(float(-(share * np.log2(share)).sum()), 0.0)
    return {
        "codes": k,
        "used": used,
        "dead": k - used,
        "usage": used / k,
        "entropy_bits": entropy,
        "perplexity": 2.0**entropy,
    }


class Patches(NamedTuple):
    """For some codes of a tokenizer the patches that are the nearest to their centroids."""

    codes: list[int]
    patches: UInt8[Tensor, "codes columns 3 s s"]  # the nearest first; white where too few pictures have one
    all_codes: Int[Tensor, "pictures n"]  # of every picture that was looked at


@torch.no_grad()
def nearest_patches(
    tokenizer: Tokenizer,
    pixels: Iterable[Float[Tensor, "_ 3 h w"]],
    *,
    codes: Sequence[int] | None = None,
    rows: int = 16,
    columns: int = 12,
    context: float = 1.0,
    size: int = 48,
    seed: int = 0,
) -> Patches:
    """Of the patches that a code names those nearest to its centroid, each of another picture.

    Args:
        tokenizer: whose codes are shown.
        pixels: batches in [0, 1]; read and encoded once, only the shown patches are kept.
        codes: which to show; `rows` random ones of the first batch if left out.
        rows: how many random codes.
        columns: patches for each code.
        context: surroundings shown on each side, in patches.
        size: side of a shown patch in pixels of the result.
        seed: of the random codes.

    Raises:
        DigitError: no pictures.
    """
    chosen = None if codes is None else torch.tensor(codes)
    best = kept = None
    every = []
    for batch in pixels:
        batch = batch.to(tokenizer.centroids.device)
        features = tokenizer.features(batch).float()
        named = tokenizer.nearest(features)
        every.append(named.cpu())
        if chosen is None:
            seen = named.unique().cpu()
            order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed))
            chosen = seen[order[:rows]].sort().values
        if best is None or kept is None:
            best = torch.full((len(chosen), columns), math.inf)
            kept = torch.full((len(chosen), columns, 3, size, size), 255, dtype=torch.uint8)
        for row, code in enumerate(chosen.tolist()):
            distances = (
                (features - tokenizer.centroids[code]).square().sum(-1).masked_fill(named != code, math.inf)
            )
            nearest, places = (part.cpu() for part in distances.min(dim=1))  # one patch of each picture
            for index in nearest.argsort()[:columns].tolist():
                worst = int(best[row].argmax())
                if nearest[index] < best[row, worst]:
                    best[row, worst] = nearest[index]
                    kept[row, worst] = _patch(batch[index], int(places[index]), tokenizer.grid, context, size)
    if best is None or kept is None or chosen is None:
        raise DigitError("there are no pictures to take patches from: give at least one")
    order = best.argsort(dim=1, stable=True)
    return Patches(chosen.tolist(), kept[torch.arange(len(kept))[:, None], order], torch.cat(every))


def _patch(pixels: Tensor, place: int, grid: int, context: float, size: int) -> UInt8[Tensor, "3 s s"]:
    """The patch at a place of the raster, with its surroundings moved inside the picture at the borders."""
    height = pixels.shape[-1]
    side = min(height, max(1, round(height / grid * (1 + 2 * context))))
    top, left = ((index + 0.5) * height / grid - side / 2 for index in divmod(place, grid))
    top, left = (min(max(round(edge), 0), height - side) for edge in (top, left))
    crop = pixels[None, :, top : top + side, left : left + side].float()
    resized = F.interpolate(crop, size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
    return (resized * 255).round().to(torch.uint8).cpu()

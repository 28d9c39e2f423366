"""tokenizer, pictures -> named values: which codes survive disturbed pictures (DiGIT, table 1)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from digit.errors import DigitError
from digit.evaluation.codebook import codebook_report
from digit.evaluation.perturbations import ALL, SNRS, Perturbation, perturb
from digit.tokenizer import Tokenizer
from digit.vqgan import VQGAN

CHANGE, VECTORS, FEATURES = "token change", "vector cosine", "feature cosine"
PROTOCOL = (
    "share of positions whose code differs from the undisturbed picture's, cosine of the vectors that both"
    " codes stand for, cosine of what is quantised; Gaussian noise on pixels in [0, 1] at an SNR in dB"
    " relative to each picture's mean square, clipped to [0, 1], the same noise for every tokenizer and"
    " strength; PSNR, sharpness (energy of the differences of neighbouring pixels, reconstructed over"
    " original) and use of the codebook on the undisturbed pictures"
)
# The paper's table 1, by SNR as SNRS lists them; its pictures, signal power and clipping are not stated.
PAPER: dict[str, dict[str, tuple[float, ...]]] = {
    "paper, VQ": {
        CHANGE: (0.187, 0.317, 0.487, 0.663, 0.805, 0.901, 0.948, 0.956),
        VECTORS: (0.972, 0.949, 0.910, 0.853, 0.777, 0.682, 0.594, 0.571),
    },
    "paper, discriminative": {
        CHANGE: (0.114, 0.178, 0.260, 0.355, 0.457, 0.570, 0.687, 0.721),
        VECTORS: (0.975, 0.960, 0.940, 0.916, 0.888, 0.855, 0.816, 0.803),
    },
}
assert all(len(row) == len(SNRS) for rows in PAPER.values() for row in rows.values())


@runtime_checkable
class PictureTokenizer(Protocol):
    """Any tokenizer; only `encode` is needed.

    What else it has is measured too: `vectors(codes)` -> b n d, what codes stand for; `features(pixels)` ->
    b n d, what is quantised, with `nearest(features)` -> codes to save a second pass; `decode(codes)` ->
    pixels in [0, 1] of the pictures' size; `codes`, the size of the codebook.
    """

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Codes of pictures in [0, 1]."""
        ...


class VQTokenizer:
    """A VQGAN as `stability` reads it."""

    def __init__(self, vqgan: VQGAN) -> None:
        """Keeps the VQGAN as it is."""
        self.vqgan, self.codes = vqgan, vqgan.config.codes

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """VQ codes in raster order."""
        return self.vqgan.encode(pixels)

    def features(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Latents before quantisation."""
        return self.vqgan.latents(pixels).flatten(2).transpose(1, 2)

    def nearest(self, features: Float[Tensor, "b n d"]) -> Int[Tensor, "b n"]:
        """The codes of latents."""
        return self.vqgan.quantize.nearest(features)

    def vectors(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The codebook's vectors."""
        return self.vqgan.quantize.vectors(codes)

    def decode(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures that codes stand for."""
        return self.vqgan.decode(codes)


def as_tokenizer(module: Tokenizer | VQGAN) -> PictureTokenizer:
    """What `stability` takes, out of a tokenizer or VQGAN that `digit.load` gave."""
    return VQTokenizer(module) if isinstance(module, VQGAN) else module


def stability(
    tokenizer: PictureTokenizer,
    pictures: Iterable[Float[Tensor, "_ 3 h w"]],
    *,
    perturbations: Sequence[Perturbation] = ALL,
    seed: int = 0,
) -> Iterator[tuple[str, float]]:
    """Yield (name, value) by perturbation, such as "token change, noise 30 dB", then for the tokenizer.

    A change is a share in [0, 1], a cosine the mean over positions. What a tokenizer lacks is left out:
    cosines without `vectors` or `features`, "PSNR" (dB, over all pixels) and "sharpness" without `decode`,
    "usage" without a known number of codes. Read changes beside them: a tokenizer that keeps little of a
    picture is stable for the wrong reason.

    Args:
        tokenizer: a digit Tokenizer, a VQGAN in `as_tokenizer`, or anything with `encode`.
        pictures: batches in [0, 1]; a picture's place in them, not its batch, fixes its noise.
        perturbations: which, and how strong.
        seed: of the noise.

    Raises:
        DigitError: no pictures, or codes that are not one row per picture.
    """
    means, decoded, codes = _measure(tokenizer, pictures, perturbations, seed)
    for how in perturbations:
        for name, value in means[how].values():
            yield f"{name}, {how.name}", value
    yield from decoded.values()
    known = _vocabulary(tokenizer)
    use = codebook_report(codes, known or 1 + max(int(part.max()) for part in codes))
    yield "used codes", float(use["used"])
    yield "entropy, bits", use["entropy_bits"]
    if known:
        yield "codes", float(known)
        yield "usage", use["usage"]


@torch.no_grad()
def _measure(
    tokenizer: PictureTokenizer,
    pictures: Iterable[Tensor],
    perturbations: Sequence[Perturbation],
    seed: int,
) -> "tuple[dict[Perturbation, _Means], _Decoded, list[np.ndarray]]":
    """Sums by perturbation, sums over reconstructions, and the codes of the undisturbed pictures."""
    means = {how: _Means() for how in perturbations}
    decoded, codes, seen = _Decoded(), [], 0
    decode: Any = getattr(tokenizer, "decode", None)
    for pixels in pictures:
        indices = range(seen, seen + len(pixels))
        seen += len(pixels)
        clean = _read(tokenizer, pixels)
        if clean[0].ndim != 2 or len(clean[0]) != len(pixels):
            raise DigitError(
                f"encode gave codes of the shape {tuple(clean[0].shape)} for {len(pixels)} pictures: "
                "give one row of codes per picture"
            )
        codes.append(clean[0].cpu().numpy())
        if decode is not None:
            decoded.add(pixels, decode(clean[0]))
        for how in perturbations:
            means[how].add(clean, _read(tokenizer, perturb(pixels, how, indices, seed=seed)))
    if not seen:
        raise DigitError("there are no pictures to disturb: give at least one")
    return means, decoded, codes


def _read(tokenizer: PictureTokenizer, pixels: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Codes, their vectors and what was quantised, the last two where there are such."""
    whole: Any = tokenizer
    features = whole.features(pixels) if hasattr(whole, "features") else None
    if features is not None and hasattr(whole, "nearest"):
        codes = whole.nearest(features)
    else:
        codes = whole.encode(pixels)
    return codes, whole.vectors(codes) if hasattr(whole, "vectors") else None, features


def _vocabulary(tokenizer: PictureTokenizer) -> int | None:
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.config.codes
    known: Any = getattr(tokenizer, "codes", None)
    return known if isinstance(known, int) else None


class _Means:
    """Running sums over all positions of all pictures, in float64."""

    def __init__(self) -> None:
        self.sums, self.positions = {}, 0

    def add(self, clean: tuple[Tensor, Any, Any], disturbed: tuple[Tensor, Any, Any]) -> None:
        rows = {CHANGE: (clean[0] != disturbed[0]).double()}
        for name, a, b in zip((VECTORS, FEATURES), clean[1:], disturbed[1:], strict=True):
            if a is not None:
                rows[name] = F.cosine_similarity(a.double(), b.double(), dim=-1)
        self.positions += clean[0].numel()
        for name, row in rows.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(row.sum())

    def values(self) -> Iterator[tuple[str, float]]:
        for name, total in self.sums.items():
            yield name, total / self.positions


class _Decoded:
    """Sums over reconstructions: squared error, and energy of neighbouring pixels' differences."""

    def __init__(self) -> None:
        self.error, self.values_seen, self.edges, self.edges_again = 0.0, 0, 0.0, 0.0

    def add(self, pixels: Tensor, again: Tensor) -> None:
        if again.shape != pixels.shape:
            raise DigitError(
                f"decode gave pictures of the shape {tuple(again.shape[1:])} for {tuple(pixels.shape[1:])}: "
                "measure at the tokenizer's own size"
            )
        self.error += float((again.double() - pixels.double()).square().sum())
        self.values_seen += pixels.numel()
        self.edges += _edges(pixels)
        self.edges_again += _edges(again)

    def values(self) -> Iterator[tuple[str, float]]:
        if self.values_seen:
            error = self.error / self.values_seen
            yield "PSNR", -10 * math.log10(max(error, 1e-12))
            yield "sharpness", self.edges_again / max(self.edges, 1e-12)


def _edges(pixels: Tensor) -> float:
    return sum(float(pixels.double().diff(dim=dim).square().sum()) for dim in (2, 3))

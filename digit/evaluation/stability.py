"""tokenizer, pictures -> named values: which codes survive disturbed pictures (DiGIT, table 1)."""

import functools
import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from digit.bounds import Seed
from digit.calls import checked
from digit.data.decode import decode
from digit.errors import DigitError
from digit.evaluation.codebook import codebook_report
from digit.nn.backbone import in_range
from digit.picture_tokenizer import PictureTokenizer
from digit.renderer_flow import FlowRenderer
from digit.tokenizer import Tokenizer
from digit.vqgan import VQGAN

SNRS = (30.0, 25.0, 20.0, 15.0, 10.0, 5.0, 1.0, 0.01)  # dB, the columns of the paper's table 1
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

Kind = Literal["noise", "blur", "jpeg", "shift", "brightness"]
_UNITS = {"noise": "{} dB", "blur": "{} px", "jpeg": "quality {}", "shift": "{} px", "brightness": "x {}"}


@dataclass(frozen=True)
class Perturbation:
    """One way of disturbing a picture, at one strength."""

    kind: Kind
    strength: float | int  # dB of SNR, px of deviation, JPEG quality, px, factor

    @property
    def name(self) -> str:
        """As results call it: "noise 30 dB"."""
        return f"{self.kind} {_UNITS[self.kind].format(f'{self.strength:g}')}"


NOISE = tuple(Perturbation("noise", snr) for snr in SNRS)
OTHERS = (
    *(Perturbation("blur", deviation) for deviation in (0.5, 1.0, 2.0, 4.0)),
    *(Perturbation("jpeg", quality) for quality in (90, 70, 40, 10)),
    *(Perturbation("shift", distance) for distance in (1, 2, 4, 8)),
    *(Perturbation("brightness", factor) for factor in (0.5, 0.8, 1.2, 1.5)),
)
ALL = (*NOISE, *OTHERS)


def perturb(
    pixels: Float[Tensor, "b 3 h w"], how: Perturbation, indices: Sequence[int], *, seed: int = 0
) -> Float[Tensor, "b 3 h w"]:
    """Disturbed pixels, in [0, 1] again.

    Noise is white and Gaussian, of the power that the picture's own mean square over all its values asks for
    (SNR = 10 log10 of the ratio), and the sum is clipped to [0, 1] but not rounded to 8 bits. It is fixed by
    (seed, index of the picture) and is the same pattern at every strength. Blur is Gaussian, edges repeated.
    JPEG is Pillow's, on pixels rounded to 8 bits. Shift moves the picture right and down, edges repeated.
    Brightness multiplies, and clips.

    Args:
        pixels: pictures in [0, 1].
        how: kind and strength.
        indices: of the pictures, one each, so that the noise of a picture does not depend on its batch.
        seed: of the noise.

    Raises:
        DigitError: a strength that cannot be meant, or not one index per picture.
    """
    if len(indices) != len(pixels):
        raise DigitError(f"there are {len(indices)} indices for {len(pixels)} pictures: give one each")
    strength = how.strength
    if how.kind == "noise":
        power = pixels.square().mean((1, 2, 3), keepdim=True) / 10 ** (strength / 10)
        patterns = torch.stack([_noise(pixels.shape[1:], index, seed) for index in indices])
        return (pixels + power.sqrt() * patterns.to(pixels)).clamp(0, 1)
    if how.kind == "blur" and strength > 0:
        return _blur(pixels, strength)
    if how.kind == "jpeg" and 1 <= strength <= 100:
        return _jpeg(pixels, int(strength))
    if how.kind == "shift" and 0 <= strength < min(pixels.shape[2:]) and strength == int(strength):
        height, width = pixels.shape[2:]
        padded = F.pad(pixels, (int(strength), 0, int(strength), 0), mode="replicate")
        return padded[:, :, :height, :width]
    if how.kind == "brightness" and strength >= 0:
        return (pixels * strength).clamp(0, 1)
    raise DigitError(
        f"{how.kind} of {strength:g} cannot be done to pictures of {pixels.shape[3]}x{pixels.shape[2]}: "
        "blur is above 0, jpeg 1 to 100, shift in whole pixels inside the picture, brightness 0 or more"
    )


@functools.lru_cache(maxsize=64)  # a batch's: drawn once for all strengths
def _noise(shape: torch.Size, index: int, seed: int) -> Tensor:
    """Unit noise of picture `index`, drawn on the CPU, so that it is the same on every device."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator)


def _blur(pixels: Tensor, deviation: float | int) -> Tensor:
    reach = math.ceil(3 * deviation)
    steps = torch.arange(-reach, reach + 1, device=pixels.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / deviation) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1).to(pixels)
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel[:, :, None], groups=3)
    return F.conv2d(rows, kernel[:, :, :, None], groups=3).clamp(0, 1)


def _jpeg(pixels: Tensor, quality: int) -> Tensor:
    """Through Pillow and back, on threads: it lets go of the interpreter."""
    values = (pixels.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def again(picture: np.ndarray) -> np.ndarray:
        file = BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        return np.array(decode(file.getvalue()))

    with ThreadPoolExecutor(8) as pool:
        rows = np.stack(list(pool.map(again, values)))
    return torch.from_numpy(rows).permute(0, 3, 1, 2).to(pixels) / 255


def as_tokenizer(
    module: Tokenizer | VQGAN | PictureTokenizer, renderer: FlowRenderer | None = None
) -> PictureTokenizer:
    """What `stability` takes, out of a tokenizer or VQGAN that `digit.load` gave, or one of your own.

    A flow renderer decodes the tokenizer's codes, without classes; a picture's place is its seed.
    """
    if isinstance(module, VQGAN):
        by_vqgan: Any = SimpleNamespace(
            encode=module.encode,
            features=lambda pixels: module.latents(pixels).flatten(2).transpose(1, 2),
            nearest=module.quantize.nearest,
            vectors=module.quantize.vectors,
            decode=module.decode,
            codes=module.config.codes,
        )
        return by_vqgan
    if renderer is None:
        return module
    drawn, whole = itertools.count(), ("encode", "features", "nearest", "vectors", "codes")
    by_flow: Any = SimpleNamespace(
        **{name: getattr(module, name) for name in whole if hasattr(module, name)},
        decode=lambda codes: renderer.sample(codes, list(itertools.islice(drawn, len(codes)))),
    )
    return by_flow


@checked
def stability(
    tokenizer: PictureTokenizer,
    pictures: Iterable[Shaped[Tensor, "_ 3 h w"]],
    *,
    perturbations: Sequence[Perturbation] = ALL,
    seed: Seed = 0,
) -> Iterator[tuple[str, float]]:
    """Yield (name, value) by perturbation, such as "token change, noise 30 dB", then for the tokenizer.

    A change is a share in [0, 1], a cosine the mean over positions. What a tokenizer lacks is left out:
    cosines without `vectors` or `features`, "PSNR" (dB, over all pixels) and "sharpness" without `decode`,
    "usage" without a known number of codes. Read changes beside them: a tokenizer that keeps little of a
    picture is stable for the wrong reason.

    Args:
        tokenizer: a digit Tokenizer, a VQGAN in `as_tokenizer`, or anything with `encode`.
        pictures: batches of uint8 or in [0, 1]; a picture's place in them, not its batch, fixes its noise.
        perturbations: which, and how strong.
        seed: of the noise.

    Raises:
        DigitError: no pictures, or codes that are not one row per picture.
    """
    sums: dict[str, float] = defaultdict(float)  # over all positions, in float64
    decoded, codes = torch.zeros(4, dtype=torch.float64), []
    whole: Any = tokenizer
    if not hasattr(tokenizer, "encode") or isinstance(tokenizer, str):
        raise DigitError(
            "tokenizer: give a Tokenizer, a VQGAN in as_tokenizer, or anything that has `encode`"
        )
    seen = 0
    with torch.no_grad():
        for pixels in (in_range(torch.as_tensor(each)) for each in pictures):
            indices = range(seen, seen + len(pixels))
            seen += len(pixels)
            clean = _read(tokenizer, pixels)
            if clean[0].ndim != 2 or len(clean[0]) != len(pixels):
                raise DigitError(
                    f"encode gave codes of the shape {tuple(clean[0].shape)} for {len(pixels)} pictures: "
                    "give one row of codes per picture"
                )
            codes.append(clean[0].cpu().numpy())
            if hasattr(tokenizer, "decode"):
                decoded += _decoded(pixels, whole.decode(clean[0]))
            for how in perturbations:
                for name, row in _kept(clean, _read(tokenizer, perturb(pixels, how, indices, seed=seed))):
                    sums[f"{name}, {how.name}"] += float(row.double().sum())
    if not seen:
        raise DigitError("there are no pictures to disturb: give at least one")
    positions = sum(part.size for part in codes)
    yield from ((name, total / positions) for name, total in sums.items())
    error, values, edges, edges_again = decoded.tolist()
    if values:
        yield "PSNR", -10 * math.log10(max(error / values, 1e-12))
        yield "sharpness", edges_again / max(edges, 1e-12)
    known: int | None = getattr(tokenizer, "codes", None)
    use = codebook_report(codes, known or 1 + max(int(part.max()) for part in codes))
    yield "used codes", float(use["used"])
    yield "entropy, bits", use["entropy_bits"]
    if known:
        yield "codes", float(known)
        yield "usage", use["usage"]


Reading = tuple[Tensor, Tensor | None, Tensor | None]


def _read(tokenizer: Any, pixels: Tensor) -> Reading:
    """Codes, their vectors and what was quantised, the last two where there are such."""
    features = tokenizer.features(pixels) if hasattr(tokenizer, "features") else None
    if features is not None and hasattr(tokenizer, "nearest"):
        codes = tokenizer.nearest(features)
    else:
        codes = tokenizer.encode(pixels)
    return codes, tokenizer.vectors(codes) if hasattr(tokenizer, "vectors") else None, features


def _kept(clean: Reading, disturbed: Reading) -> Iterator[tuple[str, Tensor]]:
    """By name what is summed up over positions."""
    yield CHANGE, clean[0] != disturbed[0]
    for name, a, b in zip((VECTORS, FEATURES), clean[1:], disturbed[1:], strict=True):
        if a is not None and b is not None:
            yield name, F.cosine_similarity(a.double(), b.double(), dim=-1)


def _decoded(pixels: Tensor, again: Tensor) -> Float[Tensor, "4"]:
    """Squared error, number of values, and the energy of neighbouring pixels' differences in both."""
    if again.shape != pixels.shape:
        raise DigitError(
            f"decode gave pictures of the shape {tuple(again.shape[1:])} for {tuple(pixels.shape[1:])}: "
            "measure at the tokenizer's own size"
        )
    error = float((again.double() - pixels.double()).square().sum())
    edges = [
        sum(float(each.double().diff(dim=dim).square().sum()) for dim in (2, 3)) for each in (pixels, again)
    ]
    return torch.tensor([error, pixels.numel(), *edges], dtype=torch.float64)

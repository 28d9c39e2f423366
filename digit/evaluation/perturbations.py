"""pixels -> disturbed pixels: noise (DiGIT, table 1), blur, JPEG, shift, brightness."""

import functools
import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from digit.errors import DigitError

Kind = Literal["noise", "blur", "jpeg", "shift", "brightness"]
SNRS = (30.0, 25.0, 20.0, 15.0, 10.0, 5.0, 1.0, 0.01)  # dB, the columns of the paper's table 1
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
    with ThreadPoolExecutor(8) as pool:
        again = np.stack(list(pool.map(functools.partial(_again, quality=quality), values)))
    return torch.from_numpy(again).permute(0, 3, 1, 2).to(pixels) / 255


def _again(picture: np.ndarray, *, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))

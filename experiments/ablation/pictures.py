"""Pictures and VQ codes, decoded once, then read from one file by every process and kept on its device."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from digit.data.images import open_images
from digit.data.loader import load_pixels
from digit.data.order import order
from digit.errors import DigitError
from digit.nn.batch import CodeBatch, PixelBatch
from digit.tensors import read_safetensors, write_safetensors_atomic
from digit.weights.artifact import load
from digit.weights.model_folder import locate


@dataclass(frozen=True)
class Sets:
    """Both sets on one device: uint8 pixels, labels and VQ codes (int16; of training pictures two views)."""

    train: Tensor  # n 3 h w
    train_labels: Tensor  # n
    train_vq: Tensor  # n 2 m
    test: Tensor
    test_labels: Tensor
    test_vq: Tensor  # n m
    vqgan: Any

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train_labels.max()) + 1


@torch.no_grad()
def prepare(images: Path, test: Path, out: Path, device: torch.device, vqgan_path: Path | None) -> None:
    """Decode both sets, encode them by the VQGAN (None: the bundled one), write out/pictures.safetensors."""
    vqgan = _vqgan(vqgan_path, device)
    tensors: dict[str, Tensor] = {}
    classes = None
    for name, path in (("train", images), ("test", test)):
        source = open_images(path)
        if source.labels is None or (classes is not None and classes != source.classes):
            raise DigitError(f"{path} must have class folders, the same in both sets")
        classes = source.classes
        index, pixels = load_pixels(source, np.arange(len(source)), vqgan.config.image_size)
        tensors[name], tensors[f"{name}_labels"] = pixels, torch.from_numpy(source.labels[index])
        codes = encoded(vqgan.encode, pixels, device, views=1 + (name == "train"))
        tensors[f"{name}_vq"] = codes if name == "train" else codes[:, 0]
    write_safetensors_atomic(out / "pictures.safetensors", tensors)


def _vqgan(path: Path | None, device: torch.device) -> Any:
    return bundled("vqgan", device) if path is None else load(path, kind="vqgan", device=device)


def bundled(part: str, device: torch.device) -> Any:
    """A part of the model that comes with the package."""
    return load(locate(None) / part, device=device)


def open_sets(out: Path, device: torch.device, vqgan_path: Path | None) -> Sets:
    """What `prepare` wrote."""
    tensors = read_safetensors(out / "pictures.safetensors")
    return Sets(
        **{name: tensor.to(device) for name, tensor in tensors.items()}, vqgan=_vqgan(vqgan_path, device)
    )


@torch.no_grad()
def encoded(
    encode: Callable[[Tensor], Tensor], pixels: Tensor, device: torch.device, *, views: int = 1
) -> Tensor:
    """Codes of pictures, and with two views of their mirror images too: int16 n views m on `device`."""
    rows = []
    for part in pixels.split(1000):
        given = part.to(device).float() / 255
        both = torch.stack((given, given.flip(3)) if views == 2 else (given,), 1)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            rows.append(encode(both.flatten(0, 1)).unflatten(0, (-1, views)).to(torch.int16))
    return torch.cat(rows)


class PictureBatches:
    """`data(step)` for encoders: a pure function of the step, gathered on the device."""

    def __init__(self, pixels: Tensor, batch: int) -> None:
        """Of uint8 pixels, n 3 h w."""
        self.pixels, self.batch = pixels, batch

    def __call__(self, step: int) -> PixelBatch:
        """Pixels in [0, 1], without labels."""
        rows = _rows(step, self.batch, len(self.pixels), self.pixels.device)
        return PixelBatch(self.pixels[rows].float() / 255, None)


class CodeBatches:
    """`data(step)` for priors and renderers: one of a picture's views, gathered on the device."""

    def __init__(self, codes: Tensor, batch: int, vq_codes: Tensor | None = None) -> None:
        """Of int16 codes, n views m."""
        self.codes, self.vq_codes, self.batch = codes, vq_codes, batch

    def __call__(self, step: int) -> CodeBatch:
        """Codes, with the VQ codes of the same view where there are any."""
        images, views = self.codes.shape[:2]
        rows = _rows(step, self.batch, images, self.codes.device)
        # The other view in the next epoch; which one comes first differs from picture to picture.
        first = step * self.batch
        view = (torch.arange(first, first + self.batch, device=rows.device) // images + rows) % views
        vq_codes = None if self.vq_codes is None else self.vq_codes[rows, view].long()
        return CodeBatch(self.codes[rows, view].long(), None, vq_codes)


def _rows(step: int, batch: int, count: int, device: torch.device) -> Tensor:
    rows = torch.from_numpy(order(0, step, batch, count))
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows

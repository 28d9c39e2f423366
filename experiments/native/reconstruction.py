"""VQGANs and held-out photos -> how far reconstructions are from them, to a network that did not teach."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from native.photos import JUDGE
from torch import Tensor

from digit.data.images import open_images
from digit.data.loader import load_pixels
from digit.evaluation.networks import Network, open_network
from digit.evaluation.result import result, write_result
from digit.evaluation.scores import Moments, frechet_distance
from digit.files import atomic_file
from digit.nn.backbone import Standardize
from digit.nn.perceptual import distance, unit_maps
from digit.rendering import to_uint8
from digit.run.grid import grid
from digit.weights.artifact import artifact_of

FRECHET, MAPS = "FD-SqueezeNet", "SqueezeNet map distance"
PROTOCOL = (
    "held-out photos against their reconstructions, as SqueezeNet 1.1 sees them at 224 px: Fréchet distance"
    " of pooled features, of few pictures and so to be compared within one set only; and the mean squared"
    " distance of unit vectors over the maps of all fire modules, without learned weights; the VQGANs were"
    " trained with another network's maps"
)


@torch.inference_mode()
def reconstruction(
    photos: Path, under: str, vqgans: Mapping[str, Any], data: Path, out: Path, *, size: int, device: str
) -> dict[str, Any]:
    """Measure each VQGAN, write `out` (JSON) and beside it a picture: photos above, a row for each VQGAN."""
    source = open_images(photos, under=under)
    pixels = load_pixels(source, np.arange(len(source)), size)[1]
    judge = open_network(f"squeezenet:{data / JUDGE}", device=device)
    values, shown = [], [pixels[:: max(1, len(pixels) // 8)][:8]]
    for name, vqgan in vqgans.items():
        moments = [Moments(512, device=device) for _ in range(2)]
        apart = 0.0
        for part in pixels.split(50):
            real = part.to(device)
            fake = to_uint8(vqgan.decode(vqgan.encode(real.float() / 255)))
            for each, shows in zip(moments, (real, fake), strict=True):
                each.update(judge.outputs(shows).features)
            apart += len(part) * float(distance(_maps(judge, real), _maps(judge, fake)))
        values += [
            (f"{name}: {FRECHET}", frechet_distance(*moments)),
            (f"{name}: {MAPS}", apart / len(pixels)),
        ]
        codes = vqgan.encode(shown[0].to(device).float() / 255)
        shown.append(to_uint8(vqgan.decode(codes)).cpu())
    value = result(
        "reconstruction",
        values,
        protocol=PROTOCOL,
        counts={"pictures": len(pixels)},
        features=[{"name": judge.name, "sha256": judge.sha256}]
        + [{"name": name, "id": artifact_of(vqgan)["id"]} for name, vqgan in vqgans.items()],
        settings={"images": photos.name, "under": under, "fingerprint": source.fingerprint, "size": size},
    )
    write_result(out, value)
    with atomic_file(out.with_suffix(".png")) as file:
        grid(torch.cat(shown), columns=len(shown[0])).save(file, "png")
    return value


def _maps(judge: Network, pixels: Tensor) -> list[Tensor]:
    resized = F.interpolate(pixels.float() / 255, size=(224, 224), mode="bilinear", antialias=True)
    return unit_maps(list(_fires(judge.module, Standardize().to(pixels.device)(resized))))


def _fires(squeezenet: Any, x: Tensor) -> Iterator[Tensor]:
    for part in squeezenet.features:
        x = part(x)
        if type(part).__name__ == "Fire":  # torchvision's
            yield x

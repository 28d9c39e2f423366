"""`digit evaluate images`: how far a set of pictures is from another, on named features."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digit.data.decode import decode
from digit.data.transforms import render
from digit.errors import DigitError
from digit.evaluation.images import ALL, report
from digit.evaluation.images import evaluate_images as measure_images
from digit.evaluation.networks import open_network
from digit.evaluation.pictures import Pictures
from digit.files import make_folder, read_json, write_json_atomic
from digit.run.device import choose_device
from digit.run.progress import progress


def evaluate_images(
    samples: str,
    reference: str,
    *,
    features: tuple[str, ...] = ("inception",),
    feature_weights: Path | None = None,
    size: int | None = None,
    few: bool = False,
    out: Path | None = None,
    batch: int = 256,
    device: str | None = None,
) -> dict[str, Any]:
    """Fréchet distance (FID on InceptionV3 only), inception score, precision and recall, class accuracy.

    Args:
        samples: what `digit sample` wrote, or any folder, zip, tar shards or npz (arr_0, uint8 n h w 3).
        reference: real pictures, likewise.
        features: networks: inception, classifier:FOLDER, squeezenet:FILE, timm:NAME; several go in one pass.
        feature_weights: local weights for inception or timm.
        size: side in pixels at which both are compared; the samples' own if left out.
        few: measure even fewer than 2,048 pictures, where distances are far too large.
        out: a JSON file for the result, with protocol, counts and hashes of the weights.
        batch: pictures at once.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    where = choose_device(device)
    networks = [open_network(spec, weights=feature_weights, device=where) for spec in features]
    if out is not None:
        make_folder(out.parent)
    drawn: Any = samples
    if (Path(samples) / "samples.json").is_file():
        drawn = _written_by_sample(Path(samples), batch, size)
    with progress("evaluate", None) as advance:
        done = 0

        def tell(now: int, total: int | None) -> None:
            nonlocal done
            advance(max(0, now - done))
            done = now

        values = list(
            measure_images(
                drawn,
                reference,
                networks,
                batch_size=batch,
                device=where,
                metrics=ALL,
                size=size,
                few=few,
                progress=tell,
            )
        )
    result = {"samples": samples, "reference": Path(reference).name, **report(values, networks)}
    if out is not None:
        write_json_atomic(out, json.loads(json.dumps(result)))
    return result


def _written_by_sample(folder: Path, batch: int, size: int | None) -> Pictures:
    """The pictures that samples.json lists (the grid is none of them), with the names of their classes."""
    rows = read_json(folder / "samples.json")["samples"]
    names = sorted({row["class"] for row in rows if row.get("class")})
    labels = None
    if names and all(row.get("class") for row in rows):
        labels = torch.tensor([names.index(row["class"]) for row in rows])

    def pictures() -> Iterator[Tensor]:
        for start in range(0, len(rows), batch):
            part = []
            for row in rows[start : start + batch]:
                path = folder / row["file"]
                if not path.is_file():
                    raise DigitError(f"{path} is named in samples.json but missing: draw the pictures again")
                image = decode(path.read_bytes())
                part.append(torch.from_numpy(render(image, size or image.size[0])))
            yield torch.stack(part)

    first = decode((folder / rows[0]["file"]).read_bytes()) if (folder / rows[0]["file"]).is_file() else None
    side = size or (first.size[0] if first else None)
    return Pictures(str(folder), pictures(), len(rows), labels, tuple(names), side)

"""`digit evaluate projection`: PCA against LDA under growing noise, of a toy and of pictures (figure 5)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.data.images import ImageSource, open_images
from digit.data.loader import Report, stream
from digit.errors import DigitError
from digit.evaluation.perturbations import Perturbation, perturb
from digit.evaluation.projection import Views, separability, toy_values
from digit.evaluation.projection_plot import draw_features, draw_toy
from digit.evaluation.result import result, write_result
from digit.evaluation.stability import as_tokenizer
from digit.features import Encoder
from digit.files import make_folder
from digit.progress import progress, say
from digit.run.device import choose_device
from digit.vqgan import VQGAN
from digit.weights.artifact import artifact_of, load

PROTOCOL = (
    "PCA and LDA fitted on every other picture of each class at each noise, measured on the rest: variance"
    " between classes over that within, and the share whose nearest class mean is right; features are pooled"
    " over a picture's positions; the toy's two classes lie 2 apart beside noise of the deviation named"
)


@torch.inference_mode()
def evaluate_projection(
    *,
    out: Path | None = None,
    images: str | None = None,
    tokenizer: Path | None = None,
    under: str | None = None,
    classes: tuple[str, ...] = (),
    per_class: int = 200,
    snrs: tuple[float, ...] = (20.0, 10.0, 5.0, 1.0, -5.0),
    shrinkage: float = 0.1,
    size: int | None = None,
    seed: int = 0,
    batch: int = 32,
    threads: int | None = None,
    device: str | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """PCA keeps variance, LDA keeps what tells classes apart: figure 5's toy, and the same on real features.

    Without pictures only the toy. With them: the features of a tokenizer, pooled over positions, of pictures
    under growing noise, along the first directions of both.

    Args:
        out: a folder for projection.json, toy.png and features.png, or a JSON file with them beside it.
        images: folder of class folders, zip, or tar shards with labels.
        tokenizer: artifact of kind tokenizer, encoder or vqgan, whose features are projected.
        under: only pictures below this folder of `images`, such as `test`.
        classes: names of the classes; all of them if left out.
        per_class: pictures of each class at most.
        snrs: of the noise on pixels, in dB; a column without noise comes first.
        shrinkage: of LDA's covariance within classes towards a sphere, in [0, 1].
        size: side in pixels at which noise is added; a VQGAN's own if left out, else 256.
        seed: of the toy and of the noise.
        batch: pictures at once.
        threads: that decode pictures.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        strict: stop at the first broken picture instead of leaving it out.
    """
    if (images is None) != (tokenizer is None):
        raise DigitError("--images and --tokenizer belong together: give both, or neither for the toy alone")
    if not 0 <= shrinkage <= 1:
        raise DigitError(f"--shrinkage {shrinkage:g} is not in [0, 1]: 0.1 suits a few hundred pictures")
    where, report = choose_device(device), Report()
    written = None if out is None else out if out.suffix == ".json" else out / "projection.json"
    if written is not None:
        make_folder(written.parent)
    of_toy = dict(toy_values(seed=seed))
    values = {f"toy: {name}": number for name, number in of_toy.items()}
    counts: dict[str, int] = {}
    features: list[dict[str, str]] = []
    if written is not None:
        draw_toy(written.with_name("toy.png"), of_toy, seed=seed)
    if images is not None and tokenizer is not None:
        source = _pictures(images, under, classes, per_class)
        module: Any = load(tokenizer, device=where)
        kind = artifact_of(module)["kind"]
        if kind not in ("tokenizer", "encoder", "vqgan"):
            raise DigitError(f"{tokenizer} is a {kind}: give a tokenizer, an encoder or a vqgan")
        side = size or (module.config.image_size if isinstance(module, VQGAN) else 256)
        options = {"batch_size": batch, "threads": threads, "report": report, "strict": strict}
        pooled, labels = _features(module, source, side, (None, *snrs), seed, where, options)
        views: dict[str, Views] = {}
        of_features: dict[str, float] = {}
        truth = labels
        for noise, points in pooled.items():
            rows, views[noise], truth = separability(points, labels, shrinkage=shrinkage)
            of_features |= {f"{name}, {noise}": number for name, number in rows}
        values |= {f"features: {name}": number for name, number in of_features.items()}
        counts = {"pictures": len(labels), "classes": len(labels.unique())}
        features = [{"name": tokenizer.resolve().name, "id": artifact_of(module)["id"]}]
        if report.skipped:
            say(report.summary())
        if written is not None:
            title = f"{len(labels)} pictures of {Path(images).name} at {side} px, {features[0]['name']}"
            place = written.with_name("features.png")
            draw_features(place, views, truth, of_features, source.classes, title=title)
    value = result(
        "projection",
        values.items(),
        protocol=PROTOCOL,
        counts=counts,
        features=features,
        seed=seed,
        settings={"images": images and Path(images).name, "classes": list(classes), "shrinkage": shrinkage},
    )
    if written is not None:
        write_result(written, value)
    return value


def _pictures(images: str, under: str | None, classes: tuple[str, ...], per_class: int) -> ImageSource:
    """The pictures of the classes asked for, the first `per_class` of each."""
    source = open_images(images, under=under)
    if source.labels is None:
        raise DigitError(f"the pictures of {images} have no labels: put them into class folders")
    for name in classes:
        if name not in source.classes:
            raise DigitError(f"{images} has no class {name!r}: it has {', '.join(source.classes[:12])}")
    wanted = [source.classes.index(name) for name in classes] or range(len(source.classes))
    chosen = [np.flatnonzero(source.labels == label)[:per_class] for label in wanted]
    return source.select(np.sort(np.concatenate(chosen)))


def _features(
    module: Any,
    source: ImageSource,
    side: int,
    snrs: tuple[float | None, ...],
    seed: int,
    where: torch.device,
    options: Mapping[str, Any],
) -> tuple[dict[str, Float[Tensor, "n d"]], Int[Tensor, " n"]]:
    """Features pooled over positions by noise, and the labels, on the CPU."""
    reader: Any = module if isinstance(module, Encoder) else as_tokenizer(module)
    read = reader if isinstance(module, Encoder) else reader.features
    noises = {"no noise" if snr is None else f"{snr:g} dB": snr for snr in snrs}
    parts: dict[str, list[Tensor]] = {name: [] for name in noises}
    labels, seen = [], 0
    assert source.labels is not None
    with progress("features", len(source)) as advance:
        for index, pixels in stream(source, side, **options):
            clean = pixels[:, 0].to(where).float() / 255
            for name, snr in noises.items():
                disturbed = clean
                if snr is not None:
                    numbers = range(seen, seen + len(clean))
                    disturbed = perturb(clean, Perturbation("noise", snr), numbers, seed=seed)
                parts[name].append(read(disturbed).float().mean(1).cpu())
            seen += len(clean)
            labels.append(torch.from_numpy(source.labels[index]))
            advance(len(index))
    return {name: torch.cat(part) for name, part in parts.items()}, torch.cat(labels)

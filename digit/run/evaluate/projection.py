"""`digit evaluate projection`: PCA against LDA under growing noise, of a toy and of pictures (figure 5)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digit.errors import DigitError
from digit.run.options import Device, Folder, Label, Pictures, Pixels
from digit.run.table import print_table


def evaluate_projection(
    *,
    out: Path | None = None,
    images: Pictures | None = None,
    tokenizer: Folder | None = None,
    under: str | None = None,
    classes: tuple[Label, ...] = (),
    per_class: int = 200,
    snrs: tuple[float, ...] = (20.0, 10.0, 5.0, 1.0, -5.0),
    shrinkage: float = 0.1,
    size: Pixels | None = None,
    seed: int = 0,
    batch: int = 32,
    threads: int | None = None,
    device: Device | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """PCA keeps variance, LDA keeps what tells classes apart: figure 5's toy, and the same on real features.

    Without pictures only the toy. With them: the features of a tokenizer, pooled over positions, of pictures
    under growing noise, along the first directions of both.

    Example: digit evaluate projection --images photos/ --tokenizer runs/tokenizer --out projection

    Args:
        out: folder for projection.json, toy.png and features.png, or a JSON file with them beside it; nothing
            is kept or drawn if left out.
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
        threads: that decode pictures; where left out one a processor, or processes if there are many.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        strict: stop at the first broken picture instead of leaving it out.
    """
    from digit.evaluation.plots import draw_toy
    from digit.evaluation.projection import PROTOCOL, toy_values
    from digit.run.device import choose_device
    from digit.run.evaluate import measurement

    if (images is None) != (tokenizer is None):
        raise DigitError("--images and --tokenizer belong together: give both, or neither for the toy alone")
    if not 0 <= shrinkage <= 1:
        raise DigitError(f"--shrinkage {shrinkage:g} is not in [0, 1]: 0.1 suits a few hundred pictures")
    where = choose_device(device)
    written = measurement.result_file(out, "projection")
    of_toy = dict(toy_values(seed=seed))
    values = {f"toy: {name}": number for name, number in of_toy.items()}
    counts: dict[str, int] = {}
    used: list[dict[str, str]] = []
    plots = [] if written is None else [written.with_name("toy.png")]
    for path in plots:
        draw_toy(path, of_toy, seed=seed)
    if images is not None and tokenizer is not None:
        source = measurement.of_classes(images, under, classes, per_class)
        reads = {"batch_size": batch, "threads": threads, "strict": strict}
        chosen: dict[str, Any] = {"snrs": snrs, "shrinkage": shrinkage, "size": size, "seed": seed}
        plot = None if written is None else written.with_name("features.png")
        of_features, counts, used = _features(source, tokenizer, where, plot, reads, **chosen)
        values |= {f"features: {name}": number for name, number in of_features.items()}
        plots += [] if plot is None else [plot]
    value = measurement.record(
        "projection",
        values.items(),
        where,
        protocol=PROTOCOL,
        counts=counts,
        features=used,
        seed=seed,
        settings={"images": images and Path(images).name, "classes": list(classes), "shrinkage": shrinkage},
    )
    _print(of_toy, "the toy: PCA and LDA of two classes, by the deviation of the noise", ", nuisance ")
    if used:
        title = f"features of {used[0]['name']}: {counts['pictures']} pictures, by noise on them"
        _print(of_features, title, ", ")
    measurement.keep(written, value, *plots, also=", and plots")
    return value


def _features(
    source: Any,
    tokenizer: Path,
    where: Any,
    plot: Path | None,
    reads: dict[str, Any],
    *,
    snrs: Sequence[float],
    shrinkage: float,
    size: int | None,
    seed: int,
) -> tuple[dict[str, float], dict[str, int], list[dict[str, str]]]:
    """The values of a tokenizer's features by noise, how many pictures and classes they are of, its name.

    Draws `plot` if there is one.
    """
    from digit.data.loader import Report
    from digit.evaluation.plots import draw_features
    from digit.evaluation.projection import pooled_under_noise, separability_by_noise
    from digit.evaluation.stability import as_tokenizer
    from digit.features import Encoder
    from digit.progress import progress, say
    from digit.run.evaluate import measurement
    from digit.vqgan import VQGAN

    module = measurement.open_one(tokenizer, ("tokenizer", "encoder", "vqgan"), where)
    side = size or (module.config.image_size if isinstance(module, VQGAN) else 256)
    tokenizes: Any = as_tokenizer(module)
    read = module if isinstance(module, Encoder) else tokenizes.features
    report, seen = Report(), []
    with progress("features", len(source)) as advance:
        pixels = measurement.pixels_of(source, side, where, advance, seen=seen, report=report, **reads)
        pooled = pooled_under_noise(read, pixels, (None, *snrs), seed=seed)
    if report.skipped:
        say(report.summary())
    labels = measurement.labels_at(source, seen)
    values, views, truth = separability_by_noise(pooled, labels, shrinkage=shrinkage)
    used = measurement.with_ids([tokenizer.resolve().name], [module])
    if plot is not None:
        codes = getattr(module.config, "codes", None)
        name = used[0]["name"] + (f" (K={codes})" if codes else "")
        title = f"PCA against LDA of the features of {name}, {len(labels)} pictures of {source.path.name}"
        draw_features(plot, views, truth, values, source.classes, title=f"{title} at {side} px")
    return values, {"pictures": len(labels), "classes": len(labels.unique())}, used


def _print(values: dict[str, float], title: str, between: str) -> None:
    """A row per method and measure, a column per noise; names are "PCA accuracy" and the noise."""
    columns = list(dict.fromkeys(name.split(between)[1] for name in values))
    rows = dict.fromkeys(name.split(between)[0] for name in values)
    cells = {
        row.replace("angle", "angle, degrees"): [values[f"{row}{between}{column}"] for column in columns]
        for row in sorted(rows, key=lambda row: row.split(" ", 1)[1])
    }
    print_table(title, columns, cells)

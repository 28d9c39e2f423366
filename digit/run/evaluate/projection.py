"""`digit evaluate projection`: PCA against LDA under growing noise, of a toy and of pictures (figure 5)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from digit.bounds import MANY, Batch, Bounds, Seed, Share
from digit.calls import checked
from digit.errors import DigitError
from digit.run.options import Device, Label, Pictures, Pixels, Tokenizing
from digit.run.table import print_table


@checked
def evaluate_projection(
    *,
    out: Path | None = None,
    images: Pictures | None = None,
    tokenizer: Tokenizing | None = None,
    under: str | None = None,
    classes: tuple[Label, ...] = (),
    per_class: Annotated[int, Bounds(2, MANY)] = 200,
    snrs: tuple[Annotated[float, Bounds(-1000, 1000)], ...] = (20.0, 10.0, 5.0, 1.0, -5.0),
    shrinkage: Share = 0.1,
    size: Pixels | None = None,
    seed: Seed = 0,
    batch: Batch = 32,
    device: Device | None = None,
) -> dict[str, Any]:
    """PCA keeps variance, LDA keeps what tells classes apart: figure 5's toy, and the same on real features.

    Without pictures only the toy. With them: the features of a tokenizer, pooled over positions, of pictures
    under growing noise, along the first directions of both.

    Example: digit evaluate projection --images photos/ --tokenizer runs/tokenizer --out projection

    Args:
        out: folder for projection.json, toy.png and features.png, or a JSON file; not kept if left out.
        images: folder of class folders, zip, or tar shards with labels.
        tokenizer: artifact of kind tokenizer, encoder or vqgan, or your own as module:object, whose features
            are projected.
        under: only pictures below this folder of `images`, such as `test`.
        classes: names of the classes; all of them if left out.
        per_class: pictures of each class at most.
        snrs: of the noise on pixels, in dB; a column without noise comes first.
        shrinkage: of LDA's covariance within classes towards a sphere, in [0, 1].
        size: side in pixels at which noise is added; a VQGAN's own if left out, else 256.
        seed: of the toy and of the noise.
        batch: pictures at once.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    given = dict(locals())
    from digit.evaluation.plots import draw_features, draw_toy
    from digit.evaluation.projection import PROTOCOL, separability_by_noise, toy_values
    from digit.run.device import choose_device
    from digit.run.evaluate import measurement
    from digit.run.own_code import known

    if (images is None) != (tokenizer is None):
        raise DigitError("--images and --tokenizer belong together: give both, or neither for the toy alone")
    where = choose_device(device, float64=True)
    kinds = "tokenizer", "encoder", "vqgan"
    module: Any = None
    if tokenizer is not None:
        module = measurement.open_one(tokenizer, kinds, where)
        given["tokenizer"] = known(tokenizer, module)
    written = measurement.result_file(out, "projection")
    made_of = measurement.asked(out, given)
    if (before := measurement.measured(written, made_of)) is not None:
        return before
    of_toy = dict(toy_values(seed=seed))
    values = {f"toy: {name}": number for name, number in of_toy.items()}
    told: dict[str, Any] = {"counts": {}, "features": [], "seed": seed}
    plots: dict[str, Any] = {"toy.png": lambda path: draw_toy(path, of_toy, seed=seed)}
    read_as = None
    tables = [(of_toy, "the toy: PCA and LDA of two classes, by the deviation of the noise", ", nuisance ")]
    if images is not None and tokenizer is not None:
        source = measurement.of_classes(images, under, classes, per_class)
        read_as = source.read_as
        pooled, labels, side = _pooled(module, source, size, where, batch, snrs, seed)
        found, views, truth = separability_by_noise(pooled, labels, shrinkage=shrinkage)
        values |= {f"features: {name}": number for name, number in found.items()}
        told["counts"] = {"pictures": len(labels), "classes": len(labels.unique())}
        name = measurement.unlike_names([tokenizer], "--tokenizer")[0]
        told["features"] = measurement.with_ids({name: module})
        tables.append((found, f"features of {name}: {len(labels)} pictures, by noise on them", ", "))
        codes = getattr(getattr(module, "config", module), "codes", None)
        of = f"{name} (K={codes})" if codes else name
        title = f"PCA against LDA of the features of {of}, {len(labels)} pictures of {source.path.name}"
        named = {"title": f"{title} at {side} px"}
        plots["features.png"] = lambda path: draw_features(path, views, truth, found, source.classes, **named)
    settings = {"images": images and Path(images).name, "classes": list(classes), "shrinkage": shrinkage}
    settings |= {"read_as": read_as}
    value = measurement.record(
        "projection", values.items(), where, protocol=PROTOCOL, settings=settings, **told
    )
    for table in tables:
        _print(*table)
    files = [] if written is None else [written.with_name(name) for name in plots]
    for path in files:
        plots[path.name](path)
    measurement.keep(written, value, *files, made_of=made_of, also=", and plots")
    return value


def _pooled(
    module: Any, source: Any, size: int | None, where: Any, batch: int, snrs: Sequence[float], seed: int
) -> tuple[dict[str, Any], Any, int]:
    """An artifact's features by noise, the pictures' labels, and the side in pixels."""
    from digit.evaluation.projection import pooled_under_noise
    from digit.evaluation.stability import as_tokenizer
    from digit.features import Encoder
    from digit.own_tokenizer import OwnTokenizer
    from digit.run.evaluate import measurement
    from digit.vqgan import VQGAN

    side = size or (module.config.image_size if isinstance(module, VQGAN) else 256)
    if isinstance(module, OwnTokenizer):
        side, read = size or module.size or 256, module.needs("features", "a projection")
    else:
        tokenizes: Any = as_tokenizer(module)
        read = module if isinstance(module, Encoder) else tokenizes.features
    with measurement.reading("features", source, side, where, batch) as (pixels, seen):
        pooled = pooled_under_noise(read, pixels(), (None, *snrs), seed=seed)
    return pooled, measurement.labels_at(source, seen), side


def _print(values: dict[str, float], title: str, between: str) -> None:
    """A row per method and measure, a column per noise; names are "PCA accuracy" and the noise."""
    columns = list(dict.fromkeys(name.split(between)[1] for name in values))
    rows = dict.fromkeys(name.split(between)[0] for name in values)
    cells = {
        row.replace("angle", "angle, degrees"): [values[f"{row}{between}{column}"] for column in columns]
        for row in sorted(rows, key=lambda row: row.split(" ", 1)[1])
    }
    print_table(title, columns, cells)

"""`digit evaluate prefix`: distance against the length of a real prefix, models side by side (figure 4b)."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from digit.bounds import Batch, Guidance, Several, Temperature, TopP, Whole
from digit.calls import checked
from digit.run.options import Device, File, Model, Network, Pictures, Positional
from digit.run.table import print_table


@checked
def evaluate_prefix(
    models: Positional[tuple[Model, ...]],
    images: Pictures,
    prefix: tuple[Whole, ...],
    *,
    features: tuple[Network, ...] = ("inception",),
    inception_weights: File | None = None,
    reference: Pictures | None = None,
    under: str | None = None,
    num: Several | None = None,
    few: bool = False,
    unconditional: bool = False,
    renderer: Literal["flow", "autoregressive", "masked"] | None = None,
    temperature: Temperature | None = None,
    top_k: Whole | None = None,
    top_p: TopP | None = None,
    guidance: Guidance | None = None,
    out: Path | None = None,
    batch: Batch = 64,
    device: Device | None = None,
) -> dict[str, Any]:
    """Give each prior the first codes of real pictures, and measure what it makes of them: figure 4b.

    A prior that needs a shorter prefix for the same distance models its codes better. Classes are those of
    the pictures' folders where a prior knows them, else none. Settings left out are each model's own.
    Repeated with the same --out, points that are done stay, and other prefixes or models add theirs.

    Example: digit evaluate prefix runs/model runs/model_vq --images photos/ --prefix 0 64 256 --out figure

    Args:
        models: folders or bundled models, side by side; one without a renderer is the VQ-only baseline.
        images: pictures whose codes are given: folder, zip, or tar shards.
        prefix: how many codes are given, one or more numbers; 0 is plain sampling, all a reconstruction.
        features: networks: inception, dinov2-l, timm:NAME, classifier:FOLDER, squeezenet:FILE.
        inception_weights: file of FID's InceptionV3; fetched if left out.
        reference: other pictures to measure against; the same ones if left out, as in the paper.
        under: only pictures below this folder of `images`, such as `test`.
        num: pictures at most, evenly spread; all if left out.
        few: measure even fewer than 2,048 pictures, where distances are far too large.
        unconditional: complete without classes.
        renderer: which one draws; the first of these that a model has if left out.
        temperature: of the prior, from 0, which takes the likeliest code; each model's own if left out.
        top_k: keep the k likeliest codes of the prior; 0 keeps all; each model's own if left out.
        top_p: keep its likeliest codes up to this probability, in (0, 1]; each model's own if left out.
        guidance: classifier-free guidance, 1 is none; each model's own, with classes, if left out.
        out: folder for prefix.json and prefix.png, or a JSON file; not kept if left out.
        batch: pictures at once.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    from digit.data.identity import of_images, of_set
    from digit.evaluation.plots import draw_prefix
    from digit.evaluation.prefix import check_prefixes
    from digit.evaluation.protocols import OWN, check_number
    from digit.run.complete import folder_labels
    from digit.run.device import choose_device
    from digit.run.evaluate import completions, measurement
    from digit.run.pictures import open_told

    where = choose_device(device, float64=True)
    source = open_told(images, under=under, num=num)
    check_number(images, len(source), OWN, few=few)
    pipelines = completions.open_models(models, where)
    check_prefixes(prefix, [pipeline.prior.config.length for pipeline in pipelines.values()])
    how = {"otherwise": "completing without classes"}
    labels = {n: None if unconditional else folder_labels(p, source, **how) for n, p in pipelines.items()}
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    settings = completions.settings_of(guidance, any(labels.values()), **given)
    settings |= {"guidance": guidance, "renderer": renderer}
    networks = measurement.open_networks(features, inception_weights, where)
    written = measurement.result_file(out, "prefix")
    asked = {
        "images": Path(images).name,
        "under": under,
        "reference": None if reference is None else Path(reference).name,
        "content": None if out is None else [of_images(source)["content"], of_set(reference)],
        "asked": {**settings, "unconditional": unconditional},
    }
    others = None if reference is None else measurement.generated(reference)
    curve = completions.Curve(pipelines, source, networks, where, asked, written)
    curve.measure(prefix, labels, {**settings, "batch_size": batch}, reference=others, few=few)
    value = curve.value()
    read = [source] if others is None else [source, others]
    value["settings"] |= {"read_as": [measurement.read_as(pictures) for pictures in read]}
    title = f"{len(source)} pictures of {asked['images']} completed from their first codes"
    _print(curve.points, title)
    measurement.caution(value, len(source))
    plot = partial(draw_prefix, curve.points, title=title)
    measurement.keep(written, value, plot=plot, also=", and a plot")
    return value


def _print(points: Any, title: str) -> None:
    """A row per model and length of the prefix."""
    from digit.evaluation.result import in_words

    metrics = dict.fromkeys(name for point in points for name in point.values if "deviation" not in name)
    rows = {
        f"{p.model}, {p.prefix} of {p.length}": [f"{p.share:.0%}", *(p.values.get(m) for m in metrics)]
        for p in points
    }
    print_table(title, ["given", *in_words(metrics).values()], rows)

"""`digit evaluate reconstruction`: what the stages after the prior lose (table 3, last rows)."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from digit.bounds import Batch, Several
from digit.calls import checked
from digit.errors import DigitError
from digit.run.options import Device, File, Model, Network, Pictures, Positional
from digit.run.table import print_table


@checked
def evaluate_reconstruction(
    model: Positional[Model],
    images: Pictures,
    *,
    features: tuple[Network, ...] = ("inception",),
    inception_weights: File | None = None,
    renderer: Literal["flow", "autoregressive", "masked"] | None = None,
    under: str | None = None,
    num: Several | None = None,
    few: bool = False,
    out: Path | None = None,
    batch: Batch = 64,
    device: Device | None = None,
) -> dict[str, Any]:
    """Distance and PSNR of real pictures that went through the model's tokenizers and back: its floor.

    What a perfect prior would reach with this renderer, and VQGAN if it needs one, and which share of its
    codes comes back when the result is tokenised again. Settings are the model's own. A renderer that knows
    classes is told those of the pictures' folders, where they are the model's.

    Example: digit evaluate reconstruction runs/model --images photos/ --features dinov2-l --out floor

    Args:
        model: folder, bundled model or owner/name on the hub, with the tokenizer inside.
        images: real pictures: folder, zip, or tar shards (shards-{000..127}.tar).
        features: networks: inception, dinov2-l, timm:NAME, classifier:FOLDER, squeezenet:FILE.
        inception_weights: file of FID's InceptionV3; fetched if left out.
        renderer: which one draws; the first of these that the model has if left out.
        under: only pictures below this folder of `images`, such as `val`.
        num: pictures at most, evenly spread; all if left out.
        few: measure even fewer than 2,048 pictures, where distances are far too large.
        out: folder for reconstruction.json and reconstruction.png, or a JSON file; not kept if left out.
        batch: pictures at once.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    given = dict(locals())
    from digit.evaluation import codes_back
    from digit.evaluation.protocols import OWN, check_number
    from digit.nn.sampling import DRAW
    from digit.pipeline import DigitPipeline
    from digit.progress import say
    from digit.run.complete import folder_labels
    from digit.run.device import choose_device
    from digit.run.evaluate import completions, measurement
    from digit.run.pictures import open_told

    where = choose_device(device, float64=True)
    pipeline = DigitPipeline.from_pretrained(model, device=where)
    source = open_told(images, under=under, num=num)
    check_number(images, len(source), OWN, few=few)
    if pipeline.tokenizer is None and pipeline.renderers:
        if pipeline.vqgan is None:
            raise DigitError(f"{model} holds no tokenizer to encode with: compose it with --tokenizer")
        say(f"{model} holds no tokenizer: no row {completions.DIGIT}; compose it with --tokenizer")
    networks = measurement.open_networks(features, inception_weights, where)
    written = measurement.result_file(out, "reconstruction")
    made_of = measurement.asked(out, given)
    if (before := measurement.measured(written, made_of)) is not None:
        return before
    size = pipeline.image_size
    labels = None
    if pipeline.renderer_classes(renderer):
        labels = folder_labels(pipeline, source, otherwise="rendering without classes")
    settings = completions.renderer_settings(pipeline, renderer, labelled=labels is not None)
    with measurement.reading("reconstruct", source, size, where, batch) as (pixels, seen):
        of = None if labels is None else lambda seeds: [labels[seen[seed]] for seed in seeds]
        ways = completions.ways_back(pipeline, settings, of)
        tokenise = pipeline.encode if {completions.DIGIT, completions.FLOW} & set(ways) else None
        rows, shown = completions.reconstruct(pixels(), ways, networks, tokenise=tokenise)
    value = measurement.record(
        "reconstruction",
        measurement.by_name(rows),
        where,
        protocol=completions.PROTOCOL_FLOW if completions.FLOW in ways else completions.PROTOCOL,
        counts={"pictures": len(seen)},
        features=measurement.of_networks(networks),
        seed=0,
        settings={
            "model": Path(model).name,
            "images": Path(images).name,
            "read_as": source.read_as,
            "draw": DRAW,
            "renderer": settings,
            "size": size,
            **({} if tokenise is None else {completions.BACK: codes_back.PROTOCOL}),
        },
    )
    title = f"{len(seen)} pictures of {Path(images).name} at {size} px and back by {Path(model).name}"
    _print(rows, networks, title)
    measurement.caution(value, len(seen))
    plot = partial(completions.save_rows, shown)
    measurement.keep(
        written, value, made_of=made_of, plot=plot, also=", and pictures beside their reconstructions"
    )
    return value


def _print(rows: dict[str, dict[str, float]], networks: Any, title: str) -> None:
    """A row per way back, below the real pictures, above the paper's."""
    from digit.evaluation.result import in_words
    from digit.run.evaluate.completions import BACK, CONDITIONS, PAPER

    columns = [BACK, "PSNR", *(network.metric(kind) for network in networks for kind in ("FD", "IS"))]
    cells: dict[str, list[Any]] = {name: [row.get(what) for what in columns] for name, row in rows.items()}
    published = {
        name: [None, None, *numbers, *[None] * (2 * len(networks) - 2)] for name, numbers in PAPER.items()
    }
    names = [BACK, "PSNR, dB", *in_words(columns[2:]).values()]
    print_table(f"{title}; {CONDITIONS}", names, {**cells, **published}, dim=published)

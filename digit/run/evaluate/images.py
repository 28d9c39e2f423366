"""`digit evaluate images`: how far a set of pictures is from another, on named features."""

from pathlib import Path
from typing import Any, Literal

from digit.bounds import Batch
from digit.calls import checked
from digit.run.options import Device, File, Network, Pictures, Pixels
from digit.run.table import print_table

Metrics = tuple[Literal["fd", "sfd", "is", "kd", "precision_recall", "class_accuracy"], ...]


@checked
def evaluate_images(
    samples: Pictures,
    reference: Pictures,
    *,
    features: tuple[Network, ...] = ("inception",),
    protocol: Literal["own", "digit-paper", "adm"] = "own",
    metrics: Metrics | None = None,
    inception_weights: File | None = None,
    size: Pixels | None = None,
    few: bool = False,
    paper: bool = False,
    out: Path | None = None,
    batch: Batch = 256,
    precision: Literal["fp32", "tf32"] = "tf32",
    device: Device | None = None,
) -> dict[str, Any]:
    """Fréchet distance (FID on InceptionV3 only), sFID, inception score, KID, precision and recall, accuracy.

    Protocols: digit-paper (50,000 samples against the 50,000 validation pictures, prepared as the paper did),
    adm (an .npz of 50,000 samples against a reference .npz of ADM with its statistics), own (any two sets).
    Memory grows with the number of pictures only for kd and precision_recall. Several processes measure a
    share of both sets each.

    Example: digit evaluate images --samples samples --reference photos/ --features dinov2-l --out result.json

    Args:
        samples: what `digit sample` wrote, or any folder, zip, tar shards or npz (arr_0, uint8 n h w 3).
        reference: real pictures, likewise, or an .npz with their statistics (mu, sigma, mu_s, sigma_s).
        features: networks: inception, dinov2-l (FD-DINOv2), timm:NAME, classifier:FOLDER, squeezenet:FILE;
            weights on this disk as dinov2-l=FILE or timm:NAME=FILE; several go in one pass.
        protocol: how published figures were measured.
        metrics: fd, sfd, is, kd, precision_recall, class_accuracy; the protocol's if left out (of own, those
            that need no features in memory).
        inception_weights: file of FID's InceptionV3; torch-fidelity's cache or its release if left out.
        size: side in pixels at which both are compared; the samples' own if left out.
        few: measure even fewer than 2,048 pictures, or than the protocol takes; distances are then too large.
        paper: print the paper's tables 3 and 4 beside the result.
        out: folder for images.json, or a JSON file; not kept if left out.
        batch: pictures at once.
        precision: of the networks on a GPU: tf32 as in torch-fidelity, or fp32, three times as slow.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    given = dict(locals())
    from digit.distributed import is_main, main_first
    from digit.evaluation import images, protocols
    from digit.evaluation.pictures import open_pictures
    from digit.run.device import choose_device
    from digit.run.evaluate import measurement

    where, chosen = choose_device(device, float64=True), protocols.PROTOCOLS[protocol]
    with main_first():  # it may have to fetch weights
        networks = measurement.open_networks(features, inception_weights, where)
    written, wanted = measurement.result_file(out, "images"), None if chosen.size else size
    made_of = measurement.asked(out, given)
    if (before := measurement.measured(written, made_of)) is not None:
        return before
    sources = [measurement.generated(path) for path in (samples, reference)]
    drawn, real = open_pictures(sources[0], size=wanted, batch_size=batch), sources[1]
    options: dict[str, Any] = {"metrics": metrics, "size": size, "few": few, "precision": precision}
    options |= {"protocol": chosen, "batch_size": batch, "device": where}
    with measurement.picture_count("evaluate", None) as tell:
        values = list(images.picture_metrics(drawn, real, networks, progress=tell, **options))
    if not is_main():
        return {}
    side = chosen.size or size or drawn.size
    settings: dict[str, Any] = {"samples": samples, "reference": Path(reference).name, "size": side}
    settings["read_as"] = [measurement.read_as(pictures) for pictures in sources]
    told: dict[str, Any] = {"settings": {**settings, "precision": precision}, "protocol": chosen}
    value = images.report(values, networks, device=measurement.device_name(where), **told)

    def show() -> None:
        _print(value, Path(samples).name)
        if paper:
            _print_beside_paper(value["values"])

    measurement.caution(value, min(n for n in value["counts"].values() if n))
    measurement.keep(written, value, made_of=made_of, show=show)
    if paper:
        conditions = {"source": protocols.SOURCE, "conditions": protocols.CONDITIONS}
        value["paper"] = {**conditions, "rows": protocols.generation_rows()}
    return value


def _print(value: dict[str, Any], name: str) -> None:
    """A row per metric."""
    from digit.evaluation.result import in_words, which_is_better

    values = {metric: number for metric, number in value["values"].items() if "deviation" not in metric}
    words = in_words(values)
    rows = {words[metric]: (number, which_is_better(metric)) for metric, number in values.items()}
    counts = f"{value['counts']['samples']:,} pictures of {name} against {value['counts']['reference']:,}"
    title = f"{counts} of {value['settings']['reference']} (protocol {value['protocol'].split(':')[0]})"
    print_table(title, ("value", "better"), rows)


def _print_beside_paper(ours: dict[str, float]) -> None:
    """Tables 3 and 4 of the paper under the measured FID and IS, and under FD and IS on other features."""
    from digit.evaluation.protocols import CONDITIONAL, CONDITIONS, SOURCE, UNCONDITIONAL
    from digit.evaluation.result import in_words

    def row(epochs: str | None, *numbers: float | None) -> list[str | None]:
        return [epochs, *(None if number is None else f"{number:.5g}" for number in numbers)]

    rows = {"this result": row(None, ours.get("FID"), ours.get("IS"))}
    for name, word in in_words(ours).items():
        if name.startswith("FD-"):
            rows[f"this result, {word}"] = row(None, ours[name], ours.get(name.replace("FD", "IS", 1)))
    published = {}
    for each in UNCONDITIONAL + CONDITIONAL:
        kind = f"{'no labels' if each.table == 3 else 'by class'}: {each.kind}"
        name = f"paper, {kind}, {each.method} {each.parameters}"
        published[name] = row(each.epochs, each.fid, each.inception_score)
    print_table(f"{SOURCE}: {CONDITIONS}", ("epochs", "FID", "IS"), {**rows, **published}, dim=published)

"""`digit evaluate images`: how far a set of pictures is from another, on named features."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from digit.data.images import open_images
from digit.distributed import is_main, main_first
from digit.errors import DigitError
from digit.evaluation.images import picture_metrics, report
from digit.evaluation.networks import open_network
from digit.evaluation.pictures import Pictures, of_images
from digit.evaluation.protocols import (
    CONDITIONAL,
    CONDITIONS,
    PROTOCOLS,
    SOURCE,
    UNCONDITIONAL,
    Metric,
    generation_rows,
)
from digit.evaluation.result import write_result
from digit.files import make_folder, read_json
from digit.progress import progress
from digit.run.device import choose_device
from digit.run.table import print_table


def evaluate_images(
    samples: str,
    reference: str,
    *,
    features: tuple[str, ...] = ("inception",),
    protocol: Literal["own", "digit-paper", "adm"] = "own",
    metrics: tuple[Metric, ...] | None = None,
    inception_weights: Path | None = None,
    size: int | None = None,
    few: bool = False,
    paper: bool = False,
    out: Path | None = None,
    batch: int = 256,
    precision: Literal["fp32", "tf32"] = "tf32",
    device: str | None = None,
) -> dict[str, Any]:
    """Fréchet distance (FID on InceptionV3 only), sFID, inception score, KID, precision and recall, accuracy.

    Protocols: digit-paper (50,000 samples against the 50,000 validation pictures, prepared as the paper did),
    adm (an .npz of 50,000 samples against a reference .npz of ADM with its statistics), own (any two sets).
    Memory grows with the number of pictures only for kd and precision_recall. Several processes measure a
    share of both sets each.

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
        out: a JSON file for the result, with protocol, counts and hashes of the weights.
        batch: pictures at once.
        precision: of the networks on a GPU: tf32 as in torch-fidelity, or fp32, three times as slow.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    where, chosen = choose_device(device), PROTOCOLS[protocol]
    with main_first():  # it may have to fetch weights
        networks = [
            open_network(spec, inception_weights=inception_weights, device=where) for spec in features
        ]
    if out is not None:
        make_folder(out.parent)
    drawn: Any = samples
    if (Path(samples) / "samples.json").is_file():
        drawn = _written_by_sample(Path(samples), batch, None if chosen.size else size)
    with progress("evaluate", None) as advance:
        done = 0

        def tell(now: int, total: int | None) -> None:
            nonlocal done
            advance(now - done if now > done else now)  # the second set starts again at its first batch
            done = now

        values = list(
            picture_metrics(
                drawn,
                reference,
                networks,
                protocol=chosen,
                batch_size=batch,
                device=where,
                metrics=metrics,
                size=size,
                few=few,
                precision=precision,
                progress=tell,
            )
        )
    if not is_main():
        return {}
    value = report(
        values,
        networks,
        protocol=chosen,
        settings={
            "samples": samples,
            "reference": Path(reference).name,
            "size": chosen.size or size,
            "precision": precision,
        },
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
    )
    if out is not None:
        write_result(out, value)
    if paper:
        value["paper"] = {"source": SOURCE, "conditions": CONDITIONS, "rows": generation_rows()}
        _print_beside_paper(value)
    return value


def _written_by_sample(folder: Path, batch: int, size: int | None) -> Pictures:
    """The pictures that samples.json lists (the grid is none of them), with the names of their classes."""
    rows = read_json(folder / "samples.json")["samples"]
    images = open_images(folder)
    places = {name: place for place, name in enumerate(images.names)}
    missing = [row["file"] for row in rows if row["file"] not in places]
    if missing or not rows:
        absent = folder / missing[0] if missing else folder / "samples.json"
        raise DigitError(f"{absent} is named in samples.json but missing: draw the pictures again")
    names = sorted({row["class"] for row in rows if row.get("class")})
    labels = None
    if names and all(row.get("class") for row in rows):
        labels = torch.tensor([names.index(row["class"]) for row in rows])
    listed = images.select([places[row["file"]] for row in rows])
    return replace(of_images(listed, size=size, batch_size=batch), labels=labels, classes=tuple(names))


def _print_beside_paper(value: dict[str, Any]) -> None:
    """Tables 3 and 4 under the measured FID and IS; other features stand under their own names."""
    ours = value["values"]
    rows: dict[str, tuple[str | None, ...]] = {
        "this result": (None, _digits(ours.get("FID")), _digits(ours.get("IS")))
    }
    for name, number in ours.items():
        if name.startswith("FD-"):
            score = ours.get(name.replace("FD", "IS", 1))
            rows[f"this result, {name}"] = (None, _digits(number), _digits(score))
    published = []
    for row in UNCONDITIONAL + CONDITIONAL:
        kind = "no labels" if row.table == 3 else "by class"
        published.append(f"paper, {kind}: {row.kind}, {row.method} {row.parameters}")
        rows[published[-1]] = (row.epochs, _digits(row.fid), _digits(row.inception_score))
    title = f"{value['protocol']}\n{SOURCE}: {CONDITIONS}"
    print_table(title, ("epochs", "FID", "IS"), rows, dim=published)


def _digits(number: float | None) -> str | None:
    """As many digits as published rows have."""
    return None if number is None else f"{number:.5g}"

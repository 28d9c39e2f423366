"""A sweep -> its best settings, drawn again with fresh seeds and measured on everything."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring.scale import Scale

from digit.evaluation.images import compare
from digit.evaluation.measure import measure
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures, open_pictures
from digit.evaluation.protocols import Metric
from digit.evaluation.result import read_result, result, write_result
from digit.evaluation.sweep import best
from digit.nn.sampling import DRAW
from digit.pipeline import DigitPipeline

METRICS: tuple[Metric, ...] = ("fd", "is", "precision_recall", "class_accuracy")
PROTOCOL = (
    "each sweep's best setting by either network, drawn again with seeds that chose no setting, classes in"
    " turn; the reference is the test pictures; precision and recall as in arXiv:1904.06991"
)


def chosen(sweep: dict[str, Any], networks: Sequence[Network]) -> list[tuple[str, dict[str, float]]]:
    """(what it is the best of, the setting): of the whole sweep, and without guidance where there is any."""
    found = []
    for network in networks:
        metric = network.metric("FD")
        found.append((metric, dict(best(sweep["rows"], metric)["setting"])))
        plain = [row for row in sweep["rows"] if row["setting"]["guidance"] == 1]
        if plain and len(plain) < len(sweep["rows"]):
            found.append((f"{metric}, no guidance", dict(best(plain, metric)["setting"])))
    return found


def draw_winners(
    sweep: Path,
    out: Path,
    *,
    model: str,
    masked: bool,
    networks: Sequence[Network],
    reference: Pictures,
    scale: Scale,
    device: torch.device,
) -> None:
    """Draw, measure on all networks, write; a setting that is best in two ways is drawn once."""
    swept = read_result(sweep)
    pipeline = DigitPipeline.from_pretrained(model, device=device)
    real = measure(reference, networks, device=device, keep=True)
    seeds = range(scale.first_seed, scale.first_seed + scale.winner)
    classes = swept["settings"]["classes"]
    rows: list[dict[str, Any]] = []
    for by, setting in chosen(swept, networks):
        same = next((row["values"] for row in rows if row["setting"] == setting), None)
        if same is None:
            options: dict[str, Any] = dict(setting)
            if pipeline.renderers:
                options["renderer"] = "masked" if masked else "autoregressive"
            drawn = pipeline(seeds=seeds, unconditional=not classes, batch_size=scale.draw, **options)
            labels = None if drawn.labels is None else torch.tensor(drawn.labels)
            pictures = open_pictures(drawn.pixels, batch_size=1000)
            found = measure(pictures, networks, device=device, keep=True)
            same = {}
            for network, here, there in zip(networks, found, real, strict=True):
                own = labels if network.classes == tuple(pipeline.classes) else None
                same |= compare(network, here, there, labels=own, metrics=METRICS)
        rows.append({"best_by": by, "setting": setting, "values": same})
    values = {f"{row['best_by']}: {name}": value for row in rows for name, value in row["values"].items()}
    told = result(
        "winners",
        values.items(),
        protocol=PROTOCOL,
        counts={"samples": len(seeds), "reference": swept["counts"]["reference"]},
        features=[{"name": network.name, "sha256": network.sha256} for network in networks],
        seed=seeds[0],
        settings={"model": swept["settings"]["model"], "cells": len(swept["rows"]), "draw": DRAW},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    )
    write_result(out, {**told, "rows": rows})

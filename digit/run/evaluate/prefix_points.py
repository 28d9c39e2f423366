"""Real pictures, models -> the points of the prefix curve, and their record, which grows point by point."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digit.data.images import ImageSource
from digit.data.loader import stream
from digit.errors import DigitError
from digit.evaluation.measure import Measured, measure
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures
from digit.evaluation.prefix import (
    PAPER,
    PROTOCOL,
    Completer,
    Point,
    as_rows,
    named,
    of_rows,
    prefix_distances,
)
from digit.evaluation.result import write_result
from digit.nn.sampling import SamplerConfig
from digit.pipeline import DigitPipeline
from digit.progress import progress, say
from digit.run.complete import folder_labels
from digit.run.evaluate.measurement import earlier, ids_of, of_networks, record

Models = Mapping[str, DigitPipeline]


def settings_of(guidance: float | None, classes: bool, **given: float | int | None) -> dict[str, Any]:
    """The settings that were given, checked before anything is encoded.

    Raises:
        DigitError: one that no prior may have, or guidance where no model completes with classes.
    """
    settings: dict[str, Any] = {name: number for name, number in given.items() if number is not None}
    SamplerConfig(**settings)
    if guidance not in (None, 1.0) and not classes:
        raise DigitError(
            f"--guidance {guidance} needs pictures in folders of a known class: give such, or leave it out"
        )
    return settings


def labels_of(models: Models, source: ImageSource, *, unconditional: bool) -> dict[str, list[int] | None]:
    """The class of each picture as each model knows it; None where it completes without classes."""
    return {
        name: None if unconditional else folder_labels(pipeline, source) for name, pipeline in models.items()
    }


def side_of(models: Models) -> int:
    """The size in pixels at which all models draw."""
    sides = {name: pipeline.vqgan.config.image_size for name, pipeline in models.items()}
    if len(set(sides.values())) > 1:
        raise DigitError(f"the models draw at unequal sizes ({sides}): compare models of one size")
    return next(iter(sides.values()))


class Curve:
    """What prefix.json holds: the points so far, and what they were measured of."""

    def __init__(
        self,
        models: Models,
        source: ImageSource,
        networks: Sequence[Network],
        device: torch.device,
        asked: dict[str, Any],
        written: Path | None,
    ) -> None:
        """Takes up the points of an earlier call in `written`; DigitError if they are of something else."""
        self.models, self.networks, self.device, self.written = models, networks, device, written
        self.asked = {**asked, "fingerprint": source.fingerprint}
        self.counts = {"samples": len(source), "reference": len(source)}
        self.points: list[Point] = []
        self.drawn: dict[str, Any] = {}  # settings that each model drew with
        self.ids = {name: ids_of(pipeline) for name, pipeline in models.items()}
        self.sampling = {name: asdict(pipeline.sampling) for name, pipeline in models.items()}
        before = earlier(written, "prefix", self._alike)
        if before is not None:
            settings = before["settings"]
            self.points, self.counts = of_rows(before["points"]), before["counts"]
            self.drawn, self.ids = dict(settings["drawn"]), {**settings["models"], **self.ids}
            self.sampling = {**settings.get("sampling", {}), **self.sampling}

    def _alike(self, before: dict[str, Any]) -> bool:
        of_models = {"models": self.ids, "sampling": self.sampling}
        return (
            before["features"] == of_networks(self.networks)
            and before["counts"]["samples"] == self.counts["samples"]
            and all(before["settings"].get(name) == given for name, given in self.asked.items())
            and all(
                before["settings"].get(kind, {}).get(name, found) == found
                for kind, each in of_models.items()
                for name, found in each.items()
            )
        )

    def left(self, prefixes: Sequence[int]) -> dict[str, list[int]]:
        """The lengths that are not measured yet, by model."""
        done = {(point.model, point.prefix) for point in self.points}
        left = {
            name: [n for n in set(prefixes) if n <= pipe.prior.config.length and (name, n) not in done]
            for name, pipe in self.models.items()
        }
        if self.points:
            say(f"{len(self.points)} points were measured before, {sum(map(len, left.values()))} are left")
        return left

    def add(self, point: Point) -> None:
        """Count a point, and write all of them if there is a file."""
        self.points.append(point)
        if self.written is not None:
            write_result(self.written, self.value())

    def value(self) -> dict[str, Any]:
        """The result so far, points in the order of models and lengths."""
        self.points.sort(key=lambda point: (list(self.ids).index(point.model), point.prefix))
        settings = {**self.asked, "models": self.ids, "sampling": self.sampling, "drawn": self.drawn}
        told = {"protocol": PROTOCOL, "counts": self.counts, "features": of_networks(self.networks)}
        value = record("prefix", named(self.points), self.device, settings=settings, **told)
        return {**value, "points": as_rows(self.points), "paper": PAPER}


def encode(
    source: ImageSource, models: Models, networks: Sequence[Network], *, batch: int, device: torch.device
) -> tuple[dict[str, Tensor], list[Measured]]:
    """Every model's codes and the networks' statistics of the pictures, in one pass over the files."""
    parts: dict[str, list[Tensor]] = {name: [] for name in models}

    def pictures() -> Iterator[Tensor]:
        for _, views in stream(source, side_of(models), batch_size=batch, strict=True):
            pixels = views[:, 0]
            for name, pipeline in models.items():
                parts[name].append(pipeline.encode(pixels.float() / 255).to(torch.int32))
            yield pixels
            advance(len(pixels))

    with progress("encode", len(source)) as advance:
        real = measure(Pictures(source.path.name, pictures(), len(source)), networks, device=device)
    return {name: torch.cat(rows) for name, rows in parts.items()}, real


def measure_points(
    curve: Curve,
    left: Mapping[str, Sequence[int]],
    codes: Mapping[str, Tensor],
    real: Sequence[Measured],
    labels: Mapping[str, list[int] | None],
    how: Mapping[str, Any],
) -> None:
    """Complete the pictures of `codes` from their first codes, and add the points that are left.

    `how` are settings of the pipeline's call; guidance holds for models that complete with classes, a
    renderer for those that have one: a baseline may stand beside them.
    """
    units = sum(
        len(codes[name]) * pipe.work(1, prefix=n) for name, pipe in curve.models.items() for n in left[name]
    )
    with progress("complete", units) as advance:
        completers = []
        for name, pipeline in curve.models.items():
            own = {**how, "progress": advance}
            own["guidance"] = how["guidance"] if labels[name] else None
            own["renderer"] = how["renderer"] if pipeline.renderers else None
            complete = _completing(pipeline, labels[name], own, curve.drawn, name)
            completers.append(Completer(name, codes[name], complete))
        done = {(point.model, point.prefix) for point in curve.points}
        wanted = sorted({n for lengths in left.values() for n in lengths})
        options: Any = {"batch_size": how["batch_size"], "device": str(curve.device), "done": done}
        for point in prefix_distances(completers, wanted, curve.networks, real, **options):
            curve.add(point)


def _completing(
    pipeline: DigitPipeline, labels: list[int] | None, how: dict[str, Any], used: dict[str, Any], name: str
) -> Any:
    def complete(prefix: Tensor, numbers: Sequence[int]) -> Tensor:
        own = None if labels is None else [labels[i] for i in numbers]
        drawn = pipeline(own, seeds=list(numbers), prefix=prefix.long(), **how)
        used[name] = {**drawn.settings, "classes": own is not None}
        used[name].pop("prefix")
        return drawn.pixels

    return complete

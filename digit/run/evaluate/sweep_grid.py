"""Values of axes -> the cells of a sweep, checked before the first is drawn; cells -> distances."""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digit.errors import DigitError
from digit.evaluation.images import compare
from digit.evaluation.measure import Measured, measure
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures
from digit.evaluation.result import write_result
from digit.evaluation.sweep import PAPER, PROTOCOL, Key, Number, Setting, combinations, key, named, sweep
from digit.nn.sampling import SamplerConfig
from digit.pipeline import DigitPipeline
from digit.progress import progress, say
from digit.run.evaluate.measurement import earlier, ids_of, of_networks, picture_count, record
from digit.weights.model_folder import PipelineSampling

PRIOR = ("temperature", "top_k", "top_p", "guidance")
_RENDERER = {
    None: (),
    "autoregressive": ("renderer_temperature", "renderer_top_k", "renderer_top_p"),
    "masked": ("renderer_temperature", "steps", "noise"),
}


@dataclass(frozen=True)
class Grid:
    """The cells are every prior setting with every renderer setting."""

    priors: list[Setting]
    renderers: list[Setting]
    renderer: str | None  # which; None without one
    classes: int  # drawn in turn; 0 without
    base: SamplerConfig  # of the prior: what the axes do not say

    def left(self, done: Collection[Key]) -> dict[Key, int]:
        """How many cells are to do of each prior setting that has any."""
        counts = {key(p): sum(key({**p, **r}) not in done for r in self.renderers) for p in self.priors}
        return {prior: count for prior, count in counts.items() if count}

    def prior(self, setting: Setting) -> SamplerConfig:
        """How the prior draws in a cell."""
        return replace(self.base, **_part(setting, PRIOR))

    def options(self, setting: Setting) -> dict[str, Any]:
        """The renderer's part of a cell, as options of the pipeline's call."""
        return {
            "renderer": self.renderer,
            **_part(setting, _RENDERER[self.renderer]),
        }

    def sampling(self, setting: Setting, sampling: PipelineSampling) -> PipelineSampling:
        """A cell as the model's own settings; those it does not concern stay as they are in `sampling`."""
        changed: dict[str, Any] = {"prior" if self.classes else "prior_unconditional": self.prior(setting)}
        if self.renderer == "autoregressive":
            names = {
                "temperature": "renderer_temperature",
                "top_k": "renderer_top_k",
                "top_p": "renderer_top_p",
            }
            own: Any = {name: setting[axis] for name, axis in names.items()}
            changed["renderer"] = replace(sampling.renderer, **own)
        if self.renderer == "masked":
            changed["masked"] = replace(sampling.masked, temperature=setting["renderer_temperature"])
            changed |= {"masked_steps": setting["steps"], "masked_noise": setting["noise"]}
        return replace(sampling, **changed)

    def command(self, setting: Setting, *, model: str | None, num: int, out: str) -> str:
        """The command line that draws a cell's pictures."""
        words = ["digit", "sample", *([model] if model else []), "--num", str(num)]
        if not self.classes:
            words.append("--unconditional")
        if self.renderer:
            words += ["--renderer", self.renderer]
        for axis, number in setting.items():
            if axis != "guidance" or self.classes:
                words += ["--" + axis.replace("_", "-"), str(number)]
        return shlex.join([*words, "--out", out])


def grid_of(
    pipeline: DigitPipeline,
    axes: Mapping[str, Sequence[Number]],
    *,
    renderer: str | None,
    unconditional: bool,
) -> Grid:
    """The grid that values of axes span on a model; an axis without values has the model's own.

    Raises:
        DigitError: a renderer or axis that the model lacks, or a value that no setting may have.
    """
    chosen = pipeline.renderer_called(renderer)
    for axis, numbers in axes.items():
        if numbers and axis not in PRIOR + _RENDERER[chosen]:
            of = f"the {chosen} renderer" if chosen else "a model without a renderer"
            raise DigitError(f"--{axis.replace('_', '-')} is no setting of {of}: leave it out")
    own = pipeline.sampling
    classes = 0 if unconditional else pipeline.prior.config.classes
    base = own.prior if classes else own.prior_unconditional
    defaults: dict[str, Number] = {axis: getattr(base, axis) for axis in PRIOR}
    if chosen == "autoregressive":
        defaults |= {
            f"renderer_{name}": getattr(own.renderer, name) for name in ("temperature", "top_k", "top_p")
        }
    if chosen == "masked":
        defaults |= {"renderer_temperature": own.masked.temperature}
        defaults |= {"steps": own.masked_steps, "noise": own.masked_noise}

    def values(names: Sequence[str]) -> dict[str, list[Number]]:
        return {axis: list(axes.get(axis) or [defaults[axis]]) for axis in names}

    found = Grid(combinations(values(PRIOR)), combinations(values(_RENDERER[chosen])), chosen, classes, base)
    _check(pipeline, found)
    return found


def fixed(pipeline: DigitPipeline, found: Grid) -> dict[str, Any]:
    """What decides the values beside the axes: settings without an axis, for the record of a sweep."""
    rest = {name: number for name, number in asdict(found.base).items() if name not in PRIOR}
    return {"renderer": found.renderer, "classes": found.classes, "prior": rest}


def _check(pipeline: DigitPipeline, found: Grid) -> None:
    prior = pipeline.prior
    whole = torch.zeros(1, prior.config.length, dtype=torch.int64)
    label = torch.zeros(1, dtype=torch.int64) if found.classes else None
    for setting in found.priors:
        if setting["guidance"] != 1 and not found.classes:
            raise DigitError(
                f"--guidance {setting['guidance']:g} needs classes, these cells have none: give 1"
            )
        # All checks of sampling and none of its work: every code is given.
        prior.sample([0], label, found.prior(setting), prefix=whole)
    for setting in found.renderers:
        found.sampling({**found.priors[0], **setting}, pipeline.sampling)
        if found.renderer == "masked":
            steps, noise = setting["steps"], setting["noise"]
            if not 1 <= steps <= pipeline.vqgan.length:
                raise DigitError(
                    f"--steps {steps:g}: give 1 to {pipeline.vqgan.length}, the number of VQ codes"
                )
            if not 0 <= noise < float("inf"):
                raise DigitError(f"--noise {noise}: give a number from 0 up")


def _part(setting: Setting, axes: Sequence[str]) -> dict[str, Any]:
    return {axis: setting[axis] for axis in axes}


class Cells:
    """What sweep.json holds: the cells measured so far, and what they were measured of."""

    def __init__(
        self,
        pipeline: DigitPipeline,
        plan: Grid,
        networks: Sequence[Network],
        reference: Pictures,
        *,
        called: str,
        recall: bool,
        num: int,
        written: Path | None,
    ) -> None:
        """Takes up the cells of an earlier call in `written`; DigitError if they are of something else.

        Args:
            pipeline: the model.
            plan: all cells.
            networks: that measure.
            reference: real pictures, read once if a cell is to do.
            called: the name of the reference in the result.
            recall: also measure precision and recall.
            num: pictures of a cell.
            written: where the result is kept after each cell, if anywhere.
        """
        self.pipeline, self.plan, self.networks, self.reference = pipeline, plan, networks, reference
        self.num, self.written = num, written
        self.metrics: Any = ["fd", "is", "precision_recall"] if recall else ["fd", "is"]
        self._told: dict[str, Any] = {
            "counts": {"samples": num, "reference": reference.n or 0},
            "features": of_networks(networks),
            "seed": 0,
            "settings": {
                "model": ids_of(pipeline),
                "reference": called,
                "metrics": self.metrics,
                **fixed(pipeline, plan),
            },
        }
        before = earlier(written, "sweep", lambda value: all(value[n] == x for n, x in self._told.items()))
        self.rows: list[dict[str, Any]] = before["rows"] if before else []

    def measure(self, *, batch: int) -> None:
        """Draw and measure the cells that are not done, `batch` pictures at once."""
        done = {key(row["setting"]) for row in self.rows}
        left = sum(self.plan.left(done).values())
        say(f"{left} cells to measure, {len(self.rows)} done before; {self.num} pictures each")
        if not left:
            return
        keep = "precision_recall" in self.metrics
        with picture_count("reference", self.reference.n) as tell:
            device = self.pipeline.device
            real = measure(self.reference, self.networks, device=device, keep=keep, progress=tell)
        for row in self._measured(real, done, batch):
            self.rows.append(row)
            if self.written is not None:
                write_result(self.written, self.value())

    def value(self) -> dict[str, Any]:
        """The result so far."""
        told = {"protocol": PROTOCOL, **self._told}
        value = record("sweep", named(self.rows), self.pipeline.device, **told)
        return {**value, "rows": self.rows, "paper": PAPER}

    def _measured(
        self, real: Sequence[Measured], done: Collection[Key], batch: int
    ) -> Iterator[dict[str, Any]]:
        """The rows of the cells that are not done; pictures go through the networks batch by batch."""
        pipeline, plan, num = self.pipeline, self.plan, self.num
        length, left = pipeline.prior.config.length, plan.left(done).values()
        units = num * (len(left) * length + sum(left) * pipeline.work(1, prefix=length))
        labels = torch.arange(num) % plan.classes if plan.classes else None
        with progress("sweep", units) as advance:
            how: dict[str, Any] = {"batch_size": batch, "progress": advance}

            def draw(setting: Setting) -> Tensor:
                return pipeline.prior.sample(range(num), labels, plan.prior(setting), **how).cpu()

            def pictures(codes: Tensor, setting: Setting) -> Iterator[Tensor]:
                for start in range(0, num, batch):
                    part = range(start, min(start + batch, num))
                    own = None if labels is None else labels[start : part.stop].tolist()
                    given = codes[start : part.stop]  # all codes of each: the prior draws none
                    yield pipeline(own, seeds=part, prefix=given, **plan.options(setting), **how).pixels

            def score(codes: Tensor, setting: Setting) -> Iterator[tuple[str, float]]:
                cell = Pictures("a cell", pictures(codes, setting), num)
                keep = "precision_recall" in self.metrics
                found = measure(cell, self.networks, device=pipeline.device, keep=keep)
                for network, here, there in zip(self.networks, found, real, strict=True):
                    yield from compare(network, here, there, metrics=self.metrics)

            yield from sweep(plan.priors, plan.renderers, draw=draw, score=score, done=done)

"""Values of axes -> the cells of a sweep, checked before the first is drawn; cells -> distances."""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digit.bounds import MANY
from digit.errors import DigitError
from digit.evaluation.images import compare
from digit.evaluation.measure import measure
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures
from digit.evaluation.result import write_result
from digit.evaluation.sweep import (
    PAPER,
    PROTOCOL,
    Key,
    Number,
    Setting,
    combinations,
    key,
    named,
    sweep,
    taken_up,
)  # fmt: skip
from digit.nn.sampling import DRAW, SamplerConfig
from digit.pipeline import DigitPipeline
from digit.progress import progress, say
from digit.run.evaluate.measurement import earlier, ids_of, of_networks, picture_count, record
from digit.weights.model_folder import PipelineSampling

PRIOR = ("temperature", "top_k", "top_p", "guidance")
_RENDERER = {
    None: (),
    "autoregressive": ("renderer_temperature", "renderer_top_k", "renderer_top_p"),
    "masked": ("renderer_temperature", "steps", "noise"),
    "flow": ("renderer_guidance", "steps"),
}


@dataclass(frozen=True)
class Grid:
    """The cells are every prior setting with every renderer setting."""

    priors: list[Setting]
    renderers: list[Setting]
    renderer: str | None  # which; None without one
    axes: tuple[str, ...]  # of the renderer
    classes: int  # seed modulo these is a picture's; 0 draws without
    base: SamplerConfig  # of the prior: what the axes do not say

    def left(self, done: Collection[Key]) -> list[int]:
        """How many cells are to do of each prior setting that has any."""
        counts = (sum(key({**p, **r}) not in done for r in self.renderers) for p in self.priors)
        return [count for count in counts if count]

    def prior(self, setting: Setting) -> SamplerConfig:
        """How the prior draws in a cell."""
        changed: Any = {axis: setting[axis] for axis in PRIOR}
        return replace(self.base, **changed)

    def options(self, setting: Setting) -> dict[str, Any]:
        """The renderer's part of a cell, as options of the pipeline's call."""
        return {"renderer": self.renderer, **{axis: setting[axis] for axis in self.axes}}

    def sampling(self, setting: Setting, sampling: PipelineSampling) -> PipelineSampling:
        """A cell as the model's own settings; those it does not concern stay as they are in `sampling`."""
        which = "prior" if self.classes else "prior_unconditional"
        changed: dict[str, Any] = {which: self.prior(setting), "draw": DRAW}
        start = "renderer_"
        own: Any = {axis.removeprefix(start): setting[axis] for axis in self.axes if axis.startswith(start)}
        if self.renderer == "autoregressive":
            changed["renderer"] = replace(sampling.renderer, **own)
        if self.renderer == "masked":
            changed["masked"] = replace(sampling.masked, **own)
            changed |= {"masked_steps": setting["steps"], "masked_noise": setting["noise"]}
        if self.renderer == "flow":
            changed |= {"flow_steps": setting["steps"], "flow_guidance": setting["renderer_guidance"]}
        return replace(sampling, **changed)

    def command(self, setting: Setting, *, model: str | None, num: int, out: str) -> str:
        """The command line that draws a cell's pictures."""
        words = ["digit", "sample", *([model] if model else []), "--num", str(num)]
        words += [] if self.classes else ["--unconditional"]
        words += ["--renderer", self.renderer] if self.renderer else []
        for axis, number in setting.items():
            if axis != "guidance" or self.classes:
                words += [_option(axis), str(number)]
        return shlex.join([*words, "--out", out])


def grid_of(
    pipeline: DigitPipeline,
    axes: Mapping[str, Sequence[Number]],
    *,
    renderer: str | None,
    unconditional: bool,
) -> Grid:
    """The grid that values of axes span on a model; an axis without values has the model's own.

    Raises DigitError for a renderer or axis that the model lacks, or a value that no setting may have.
    """
    chosen, own = pipeline.renderer_called(renderer), pipeline.sampling
    classes = 0 if unconditional else pipeline.prior.config.classes
    of_renderer, told = _RENDERER[chosen], bool(classes and pipeline.renderer_classes(chosen))
    if told and chosen != "flow":  # which is guided by codes alone too
        of_renderer += ("renderer_guidance",)
    for axis, numbers in axes.items():
        if numbers and axis not in PRIOR + of_renderer:
            of = f"the {chosen} renderer" if chosen else "a model without a renderer"
            if axis == "renderer_guidance" and chosen:
                of = f"{of}, which is told no class"
            raise DigitError(f"{_option(axis)} is no setting of {of}: leave it out")
    base = own.prior if classes else own.prior_unconditional
    defaults: dict[str, Number] = {axis: getattr(base, axis) for axis in PRIOR}
    if chosen == "masked":
        defaults |= {"renderer_temperature": own.masked.temperature, "renderer_guidance": own.masked.guidance}
        defaults |= {"steps": own.masked_steps, "noise": own.masked_noise}
    elif chosen == "flow":
        assert own.flow_steps is not None and own.flow_guidance is not None, "the pipeline has filled them in"
        defaults |= {"steps": own.flow_steps, "renderer_guidance": own.flow_guidance}
    else:
        defaults |= {axis: getattr(own.renderer, axis.removeprefix("renderer_")) for axis in of_renderer}

    def cells(names: Sequence[str]) -> list[Setting]:
        return combinations({axis: list(axes.get(axis) or [defaults[axis]]) for axis in names})

    found = Grid(cells(PRIOR), cells(of_renderer), chosen, of_renderer, classes, base)
    _check(pipeline, found)
    return found


def _check(pipeline: DigitPipeline, found: Grid) -> None:
    prior = pipeline.prior
    most = pipeline.vqgan.length if pipeline.vqgan is not None and found.renderer == "masked" else MANY
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
        if not 1 <= setting.get("steps", 1) <= most:
            raise DigitError(f"--passes {setting['steps']:g}: give 1 to {most}, the number of VQ codes")
        if not 0 <= setting.get("noise", 0) < float("inf"):
            raise DigitError(f"--noise {setting['noise']}: give a number from 0 up")
        pipeline.requested([0], [0] if found.classes else None, **found.options(setting))


def _option(axis: str) -> str:
    """As it is typed."""
    return "--passes" if axis == "steps" else "--" + axis.replace("_", "-")


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
        content: str | None = None,
        read_as: str = "",
    ) -> None:
        """Takes up the cells of an earlier call in `written`; DigitError if they are of something else.

        `reference` is read if a cell is to do, and `called` so in the result, where `content` is its
        identity and `read_as` what was told of it; a cell has `num` pictures.
        """
        self.pipeline, self.plan, self.networks, self.reference = pipeline, plan, networks, reference
        self.num, self.written = num, written
        self.metrics: Any = ["fd", "is", "precision_recall"] if recall else ["fd", "is"]
        settings = {"model": ids_of(pipeline), "reference": called, "metrics": self.metrics}
        settings |= {"content": content, "read_as": read_as}
        rest = {name: number for name, number in asdict(plan.base).items() if name not in PRIOR}  # no axes
        settings |= {"draw": DRAW, "renderer": plan.renderer, "classes": plan.classes, "prior": rest}
        self._told: dict[str, Any] = {
            "counts": {"samples": num, "reference": reference.n or 0},
            "features": of_networks(networks),
            "seed": 0,
            "settings": settings,
        }
        before = earlier(written, "sweep", self._alike)
        axes = {**plan.priors[0], **plan.renderers[0]}
        first = [network.metric("FD") for network in networks]
        rows = before.get("rows") if before else []
        self.rows: list[dict[str, Any]] = taken_up(rows, axes, first, where=written)

    def _alike(self, before: dict[str, Any]) -> bool:
        settings = {**before["settings"], "read_as": self._told["settings"]["read_as"]}  # `content` decides
        return all({**before, "settings": settings}.get(name) == told for name, told in self._told.items())

    def value(self) -> dict[str, Any]:
        """The result so far."""
        value = record("sweep", named(self.rows), self.pipeline.device, protocol=PROTOCOL, **self._told)
        return {**value, "rows": self.rows, "paper": PAPER}

    def measure(self, *, batch: int) -> None:
        """Draw and measure the cells that are not done, `batch` pictures at once; keep each when it is."""
        pipeline, plan, num = self.pipeline, self.plan, self.num
        done = {key(row["setting"]) for row in self.rows}
        left, length = plan.left(done), pipeline.prior.config.length
        say(f"{sum(left)} cells to measure, {len(self.rows)} done before; {num} pictures each")
        if not left:
            say("nothing is left to do")
            return
        how: Any = {"device": pipeline.device, "keep": "precision_recall" in self.metrics}
        with picture_count("reference", self.reference.n) as tell:
            real = measure(self.reference, self.networks, progress=tell, **how)
        labels = torch.arange(num) % plan.classes if plan.classes else None
        units = num * (len(left) * length + sum(left) * pipeline.work(1, prefix=length))
        with progress("sweep", units) as advance:
            drawing: Any = {"batch_size": batch, "progress": advance}

            def draw(setting: Setting) -> Tensor:
                return pipeline.prior.sample(range(num), labels, plan.prior(setting), **drawing).cpu()

            def pictures(codes: Tensor, setting: Setting) -> Iterator[Tensor]:
                for start in range(0, num, batch):
                    part = range(start, min(start + batch, num))
                    given = codes[start : part.stop]  # all codes of each: the prior draws none
                    how = {"unconditional": not plan.classes, **plan.options(setting), **drawing}
                    yield pipeline(seeds=part, prefix=given, **how).pixels

            def score(codes: Tensor, setting: Setting) -> Iterator[tuple[str, float]]:
                found = measure(Pictures("a cell", pictures(codes, setting), num), self.networks, **how)
                for network, here, there in zip(self.networks, found, real, strict=True):
                    yield from compare(network, here, there, metrics=self.metrics)

            for row in sweep(plan.priors, plan.renderers, draw=draw, score=score, done=done):
                self.rows.append(row)
                if self.written is not None:
                    write_result(self.written, self.value())

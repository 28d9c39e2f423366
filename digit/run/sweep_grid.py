"""Values of axes -> the cells of a sweep, checked before the first is drawn; a cell -> settings."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from digit.errors import DigitError
from digit.evaluation.sweep import Key, Number, Setting, combinations, key
from digit.nn.sampling import SamplerConfig
from digit.pipeline import DigitPipeline
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

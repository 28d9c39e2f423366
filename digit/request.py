"""What a call of the pipeline asks for, resolved: a seed and a label per picture, and every setting."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from digit.errors import DigitError
from digit.nn.labels import label_ids
from digit.nn.sampling import DRAW, SamplerConfig
from digit.weights.model_folder import PipelineSampling


@dataclass(frozen=True)
class Request:
    """What is to be drawn; row i of seeds and labels belongs to picture i."""

    seeds: list[int]
    labels: list[int] | None
    prior: SamplerConfig
    renderer: str | None  # flow, autoregressive, masked or none
    rendering: SamplerConfig
    steps: int  # of the flow or the masked renderer
    noise: float  # of the masked renderer

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the pictures beside seeds and labels, as JSON has it."""
        told: dict[str, Any] = {"draw": DRAW, "prior": asdict(self.prior), "renderer": self.renderer}
        if self.renderer == "flow":
            told[self.renderer] = {"steps": self.steps, "guidance": self.rendering.guidance}
        elif self.renderer:
            told[self.renderer] = asdict(self.rendering)
        if self.renderer == "masked":
            told[self.renderer] |= {"steps": self.steps, "noise": self.noise}
        return told


def resolve(
    own: PipelineSampling,
    seeds: list[int],
    labels: list[int] | None,
    *,
    renderer: str | None,
    prior: dict[str, Any],
    rendering: dict[str, Any],
    steps: int | None = None,
    noise: float | None = None,
) -> Request:
    """The request of a call: settings that are None become `own`, those of the model.

    Without labels the guidance of a renderer that draws VQ codes is none; that of the flow renderer is by
    codes too. DigitError: a setting out of range, or guidance without classes.
    """
    of_prior = _with(own.prior_unconditional if labels is None else own.prior, prior)
    if labels is None and of_prior.guidance != 1.0:
        raise DigitError("guidance needs classes: leave out --guidance, or --unconditional where it is given")
    noise = own.masked_noise if noise is None else noise
    if not 0 <= noise < float("inf"):
        raise DigitError(f"noise is {noise}: give a number from 0 up")
    if renderer == "flow":
        assert own.flow_steps is not None and own.flow_guidance is not None, "the pipeline has filled them in"
        weight = rendering.get("guidance")
        guided = SamplerConfig(guidance=own.flow_guidance if weight is None else weight)
        return Request(seeds, labels, of_prior, renderer, guided, steps or own.flow_steps, noise)
    of_renderer = _with(own.renderer, rendering)
    if renderer == "masked":  # it has no top-k and no top-p
        of_renderer = _with(own.masked, {name: rendering.get(name) for name in ("temperature", "guidance")})
    if labels is None and rendering.get("guidance") not in (None, 1.0):
        raise DigitError(
            "guidance needs classes: leave out --renderer-guidance, or --unconditional where it is given"
        )
    if labels is None:
        of_renderer = replace(of_renderer, guidance=1.0)
    steps = own.masked_steps if steps is None else steps
    return Request(seeds, labels, of_prior, renderer, of_renderer, steps, noise)


def seeds_and_labels(
    labels: Sequence[int | str] | int | str | None,
    num_images: int | None,
    seeds: Sequence[int] | None,
    *,
    unconditional: bool = False,
    names: Sequence[str],
    classes: int,
) -> tuple[list[int], list[int] | None]:
    """A seed and a label per picture: label i is of seed i, and a shorter list of labels is repeated in turn.

    Without labels a picture's class follows from its seed, seed modulo classes, so that it is the same beside
    any others; labels are None if `unconditional`, or where the model knows no classes. `names` are those of
    the `classes` classes that it knows.

    Raises:
        DigitError: options that contradict each other, more labels than pictures, or see `label_ids`.
    """
    if unconditional and labels is not None:
        raise DigitError("labels and unconditional=True exclude each other: give one of them")
    if isinstance(labels, int | str):
        labels = [labels]
    ids = None if labels is None else label_ids(labels, names=names, classes=classes)
    count = len(seeds) if seeds is not None else num_images or (len(ids) if ids else 1)
    if count < 1:
        raise DigitError("--seeds is empty: give at least one, or leave it out")
    if num_images is not None and num_images != count:
        raise DigitError(f"num_images {num_images} does not fit {count} seeds: give one of them")
    chosen = list(seeds) if seeds is not None else list(range(count))
    if ids is not None:
        return chosen, in_turn(ids, count)
    return chosen, [int(seed) % classes for seed in chosen] if classes and not unconditional else None


def in_turn(labels: Sequence[int], count: int) -> list[int]:
    """A label for each of `count` pictures, the list repeated; DigitError for no or too many labels."""
    if not labels:
        raise DigitError("--labels is empty: name at least one class, or leave it out")
    if len(labels) > count:
        pictures = f"{count} picture{'s' * (count != 1)}"
        raise DigitError(f"--labels names {len(labels)} classes for {pictures}: give at most one per picture")
    return [labels[i % len(labels)] for i in range(count)]


def at_once(device: torch.device, pictures: int) -> int:
    """Pictures that are drawn in one batch where nobody says how many: 64 on a CPU.

    On a GPU as many as there are, for a batch of the sampler costs little more than one picture: up to 1024,
    and 64 MiB of its whole memory each, so that the number is the same whatever else runs there.
    """
    if device.type != "cuda":
        return 64
    room = torch.cuda.get_device_properties(device).total_memory // (64 << 20)
    return max(64, min(pictures, room, 1024))


def _with(settings: SamplerConfig, given: dict[str, Any]) -> SamplerConfig:
    return replace(settings, **{name: value for name, value in given.items() if value is not None})

"""A visitor's wish -> pictures, a few at a time, and the sentence and the command that go with them."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from digit.bounds import Bounds, Guidance, Temperature
from digit.calls import check_fields
from digit.errors import DigitError, check_lineage
from digit.pipeline import DigitPipeline, RendererName

MOST = 64  # pictures of one wish
EACH, NONE = "each seed's own", "without a class"  # beside the names of classes
Rendering = tuple[DigitPipeline, Any]  # a model, and which of its renderers
_FIRST, _PART = 2, 16  # pictures of the first part, which shall come soon, and of the others at most


@dataclass(frozen=True)
class Wish:
    """What a visitor asks for; DigitError for what cannot be meant, whoever sent it."""

    label: str = EACH  # a class as `--labels` takes it, or one of the above
    seed: Annotated[int, Bounds(0, 2**53 - MOST)] = 0  # the first; browsers count no further
    count: Annotated[int, Bounds(1, MOST)] = 16
    guidance: Guidance | None = None  # None, here and below: the model's own
    temperature: Temperature | None = None
    renderer: RendererName | None = None

    def __post_init__(self) -> None:
        """Check every field by its annotation."""
        check_fields(self)

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of a pipeline's call but the seeds, and options of `digit sample` by the same names."""
        told = {"guidance": None if self.label == NONE else self.guidance}
        told |= {"temperature": self.temperature, "renderer": self.renderer}
        classes = {EACH: {}, NONE: {"unconditional": True}}.get(self.label, {"labels": self.label})
        return classes | {name: value for name, value in told.items() if value is not None}

    def command(self, *words: str) -> str:
        """The `digit sample` that draws the same; `words` choose the model, the device, what is completed."""
        last = f"-{self.seed + self.count - 1}" if self.count > 1 else ""
        options = list[str]()
        for name, value in self.how.items():
            options += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return shlex.join(["digit", "sample", *words, "--seeds", f"{self.seed}{last}", *options])


class Shown(NamedTuple):
    """What is there so far."""

    rows: list[UInt8[Tensor, "b 3 h w"]]  # the pictures, and what each other renderer makes of their codes
    names: list[str]  # of the pictures: class and seed
    sentence: str


def draw(
    pipeline: DigitPipeline, wish: Wish, *others: Rendering, prefix: Int[Tensor, "1 p"] | None = None
) -> Iterator[Shown]:
    """All pictures so far, part by part; `others` render the same codes, which begin with `prefix`."""
    of = {EACH: "", NONE: f" {NONE}"}.get(wish.label, f" of {wish.label}")
    what = f"{wish.count} picture{'s' * (wish.count > 1)}{of}"
    called = pipeline.classes or range(pipeline.prior.config.classes)
    begun, size, rows, names = time.monotonic(), _FIRST, list[Tensor](), list[str]()
    while len(names) < wish.count:
        seeds = range(wish.seed, wish.seed + wish.count)[len(names) : len(names) + size]
        known = None if prefix is None else prefix.expand(len(seeds), -1)
        drawn = pipeline(seeds=seeds, prefix=known, **wish.how)
        told: Any = {"seeds": seeds, "labels": drawn.labels, "unconditional": drawn.labels is None}
        added = [drawn.pixels, *(other.decode(drawn.codes, renderer=by, **told) for other, by in others)]
        rows = [torch.cat(pair) for pair in zip(rows, added, strict=True)] if rows else added
        of_seeds = [f"{called[label]} " for label in drawn.labels] if drawn.labels else [""] * len(seeds)
        names = [*names, *(f"{name}{seed}" for name, seed in zip(of_seeds, seeds, strict=True))]
        size, seconds = min(2 * size, _PART), max(time.monotonic() - begun, 1e-3)
        start = "" if len(names) == wish.count else f"{len(names)} of "
        rate = f"{seconds:.1f} s, {len(names) / seconds:.1f} pictures per second"
        yield Shown(rows, names, f"{start}{what}: {rate}")


def complete(
    pipeline: DigitPipeline, pixels: UInt8[Tensor, "1 3 h w"], kept: int, wish: Wish
) -> Iterator[Shown]:
    """The picture, what all of its codes give, and a completion of the first `kept` for each seed.

    As `digit sample --prefix-from` makes them. DigitError for more codes than a picture has.
    """
    if refusal := Bounds(0, pipeline.prior.config.length).refusal(kept):
        raise DigitError(f"codes to keep: {refusal}")
    codes = pipeline.encode(pixels)
    first = torch.cat([pixels, pipeline(seeds=[wish.seed], prefix=codes, **wish.how).pixels])
    for rows, names, sentence in draw(pipeline, wish, prefix=codes[:, :kept]):
        yield Shown([torch.cat([first, *rows])], ["picture", "all codes", *names], sentence)


def check_against(own: DigitPipeline, other: DigitPipeline, name: str) -> None:
    """DigitError unless the model called `name` can render the codes that `own` draws."""
    made = attrgetter("prior.config.codes", "prior.config.length", "prior.config.classes", "classes")
    if made(own) != made(other):
        raise DigitError(f"--against {name} has other codes or classes: give a model of the same tokenizer")
    lineages = [getattr(each.prior, "artifact", {}).get("lineage", {}) for each in (own, other)]
    check_lineage("the model", lineages[0], f"--against {name}", lineages[1])

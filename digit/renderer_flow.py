"""codes (and class) -> pixels: the renderer that flows from noise to the picture, without a VQGAN.

Beyond the paper, whose renderers go by VQ codes. A transformer over patches predicts the clean picture from a
noisy one and the codes; its error is weighted as one of velocity (JiT, arXiv:2511.13720; flow matching,
arXiv:2210.02747). Time runs from noise at 0 to the picture at 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from digit.bounds import Count, Decay, Depth, Size, Weight
from digit.calls import check_fields, checked
from digit.errors import DigitError
from digit.nn.batch import ViewBatch, in_equal_parts
from digit.nn.checks import check_codes
from digit.nn.decoding import Watch, inference
from digit.nn.forms import replaceable
from digit.nn.modulated import ModulatedBlock, Times, modulated
from digit.nn.noise import gaussians, keys
from digit.nn.summary import in_a_line

LEAST = 0.05  # of 1 - time in the loss: nearer to the picture, an error of velocity is no longer weighted up
GUIDED_FROM = 0.1  # time: before, the picture is all noise, and guidance only drives its colours apart


@dataclass(frozen=True)
class FlowConfig:
    """A renderer of some 10 million parameters at its default width, layers and heads."""

    codes: int  # size of the prior's vocabulary
    length: int  # codes per image, a square grid
    image_size: Size  # side in pixels
    classes: int = 0  # 0: it is told no class
    patch: Size = 4  # side in pixels of what one position of the transformer holds
    width: Size = 256  # channels
    layers: Depth = 8  # transformer blocks
    heads: Size = 4  # attention heads
    code_dropout: Decay = 0.1  # share of pictures in training without codes and class, for guidance
    label_dropout: Decay = 0.1  # and of pictures with codes, but without a class
    time_mean: float = -0.4  # of the times in training: sigmoid(mean + deviation * a normal number)
    time_deviation: Weight = 1.0
    steps: Count = 8  # passes of the transformer per image, unless told otherwise
    guidance: Weight = 1.5  # weight of what codes and class change, unless told otherwise; 1 is none
    taught_guidance: Weight = (
        1.0  # the largest of which it was taught to draw in one pass; 1: it takes a second
    )

    def __post_init__(self) -> None:
        """Fail at construction with the fields."""
        check_fields(self)
        if min(self.codes, self.length) < 1 or self.classes < 0:
            raise DigitError(f"a flow renderer needs at least one code and one position, this one has {self}")
        if self.width % self.heads:
            raise DigitError(
                f"{self.heads} heads do not divide the width {self.width}: choose a divisor of it"
            )
        if self.taught_guidance < 1:
            raise DigitError(f"a guidance that was taught is 1 or more, this one is {self.taught_guidance}")
        if self.image_size % self.patch:
            raise DigitError(f"patches of {self.patch} px do not fill a side of {self.image_size} px")
        if self.grid**2 != self.length or self.side % self.grid:
            raise DigitError(
                f"{self.length} codes do not lie on {self.side} x {self.side} patches of {self.patch} px: "
                "their square root has to divide that side"
            )

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch

    @property
    def grid(self) -> int:
        """Codes along a side; each covers the same number of patches."""
        return round(self.length**0.5)

    def taught(self, guidance: Float[Tensor, " b"] | None, times: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Guidance as one that was taught it is told: from 0, which stands for 1, to 1."""
        strength = torch.ones_like(times) if guidance is None else guidance
        return (strength - 1) / (self.taught_guidance - 1)


class Prediction(NamedTuple):
    """What a renderer made of noisy pictures; values from -1 to 1."""

    found: Float[Tensor, "b 3 h w"]
    clean: Float[Tensor, "b 3 h w"]
    times: Float[Tensor, " b"]

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Squared error of the velocity from noise to picture, per value."""
        weight = (1 - self.times).clamp(min=LEAST) ** -2
        return ((self.found - self.clean).square().flatten(1).mean(1) * weight).mean()


class FlowRenderer(nn.Module):
    """Transformer over noisy patches, each with its code; time and class modulate its blocks."""

    @checked
    def __init__(self, config: FlowConfig) -> None:
        """Tables and blocks freshly drawn; a new one predicts a grey picture."""
        super().__init__()
        self.config, width = config, config.width
        values = 3 * config.patch**2
        self.patch_embedding = nn.Linear(values, width)
        self.code_embedding = nn.Embedding(config.codes + 1, width)  # the last row: no code
        self.position_embedding = nn.Embedding(config.side**2, width)
        self.label_embedding = nn.Embedding(config.classes + 1, width)  # the last row: no class
        self.times = Times(width)
        # None of its values is drawn: one that is taught begins as its teacher draws without guidance.
        self.strengths = Times(width, zeros=True) if config.taught_guidance > 1 else None
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation, self.projection = nn.Linear(width, 2 * width), nn.Linear(width, values)
        for table in (self.code_embedding, self.position_embedding, self.label_embedding):
            nn.init.normal_(table.weight, std=0.02)
        for layer in (self.modulation, self.projection):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def __repr__(self) -> str:
        """One line."""
        own = self.config
        return in_a_line(self, f"{own.length} codes of {own.codes:,} -> {own.image_size} px")

    def forward(
        self,
        noisy: Float[Tensor, "b 3 h w"],
        times: Float[Tensor, " b"],
        codes: Int[Tensor, "b n"],
        labels: Int[Tensor, " b"],
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """The clean pictures, values from -1 to 1, of mixtures time * picture + (1 - time) * noise.

        A code of `config.codes` is none, and so is a label of `config.classes`. `guidance`, from 1 to
        `config.taught_guidance`, is that of a renderer which was taught it; 1 if left out.
        """
        side = self.config.side
        told = over_patches(self.code_embedding(codes), side)
        x = self.patch_embedding(patches_of(noisy, side)) + told + self.position_embedding.weight
        condition = self.times(times) + self.label_embedding(labels)
        if self.strengths is not None:
            condition = condition + self.strengths(self.config.taught(guidance, times))
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(nn.functional.silu(condition)).unsqueeze(1).chunk(2, -1)
        return pictures_of(self.projection(modulated(self.norm(x), shift, scale)).float(), side)

    def loss(self, batch: ViewBatch) -> Float[Tensor, ""]:
        """Squared error of the velocity from noise to picture, per value, at times drawn anew."""
        return self.predict(batch).loss

    def predict(self, batch: ViewBatch) -> Prediction:
        """Pictures out of mixtures with noise at times drawn anew, codes and classes left out of some."""
        config, b, device = self.config, len(batch.codes), batch.pixels.device
        clean, noise = 2 * batch.pixels - 1, torch.randn_like(batch.pixels)
        times = torch.sigmoid(config.time_mean + config.time_deviation * torch.randn(b, device=device))
        dropped = torch.rand(b, device=device)
        codes = self._without(batch.codes, dropped < config.code_dropout, config.codes)
        labels = self._without(
            self.known(batch.labels, b, device),
            dropped < config.code_dropout + config.label_dropout,
            config.classes,
        )
        mixed = times.view(-1, 1, 1, 1)
        return Prediction(self(mixed * clean + (1 - mixed) * noise, times, codes, labels), clean, times)

    @staticmethod
    def _without(of: Tensor, rows: Bool[Tensor, " b"], none: int) -> Tensor:
        """Codes or labels, those of the rows replaced by none."""
        return torch.where(rows.view(-1, *[1] * (of.ndim - 1)), none, of)

    def known(self, labels: Int[Tensor, " b"] | None, count: int, device: torch.device) -> Int[Tensor, " b"]:
        """Labels as the table has them: -1, and all where no class is told, as none."""
        classes = self.config.classes
        if labels is None:
            return torch.full((count,), classes, device=device)
        return torch.where((labels < 0) | (labels >= classes), classes, labels)

    @checked
    def sample(
        self,
        codes: Int[Tensor, "b n"],
        seeds: Sequence[int] | Int[Tensor, " b"],
        labels: Sequence[int] | Int[Tensor, " b"] | None = None,
        *,
        steps: Count | None = None,
        guidance: Weight | None = None,
        progress: Callable[[int], None] | None = None,
        watch: Watch | None = None,
        autocast: bool | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Draw the pictures of codes, values in [0, 1], on the renderer's device; row i depends on row i.

        Args:
            codes: of each picture.
            seeds: of the noise that a picture begins with.
            labels: numbers of classes, -1 for none; none if left out.
            steps: passes of the transformer: steps of Adams and Bashforth's method of second order.
            guidance: weight of what codes and class change; other than 1 it takes a second pass at each step,
                unless the renderer was taught it.
            progress: hears how many pictures each step has passed, with those that fill up a part.
            watch: sees what each step takes for the pictures; those that are not begun are grey.
            autocast: half precision; by default on a GPU only.

        Raises:
            DigitError: codes that are not the renderer's, as many seeds or labels as there are no codes,
                labels for a renderer that knows no classes, or a guidance that it was not taught.
        """
        own, device = self.config, self.projection.weight.device
        check_codes(len(seeds), codes, length=own.length, codes=own.codes)
        rows = torch.full((len(codes),), -1) if labels is None else torch.as_tensor(labels)
        if len(rows) != len(codes) or int(rows.max()) >= own.classes or int(rows.min()) < -1:
            known = f"0 to {own.classes - 1}, or -1 for none" if own.classes else "none, it is told no class"
            raise DigitError(
                f"labels: give one for each of {len(codes)} pictures; this renderer knows {known}"
            )
        weight = own.guidance if guidance is None else guidance
        if own.taught_guidance > 1 and not 1 <= weight <= own.taught_guidance:
            raise DigitError(
                f"renderer guidance {weight}: this renderer was taught 1 to {own.taught_guidance}"
            )
        noise = gaussians(keys(seeds, stage="renderer_flow").to(device), 3 * own.image_size**2)
        noise = noise.view(-1, 3, own.image_size, own.image_size)
        weights = torch.full((len(codes),), float(weight))
        given = (
            each.to(device) for each in (noise, codes, self.known(rows, len(rows), rows.device), weights)
        )
        found: list[Tensor] = []

        def see(clean: Float[Tensor, "p 3 h w"]) -> None:
            begun = torch.cat((*found, clean))[: len(codes)]
            rest = torch.zeros(len(codes) - len(begun), *begun.shape[1:], device=device)
            assert watch is not None
            watch(_levels(torch.cat((begun, rest))).cpu())

        seen = None if watch is None else see
        how: dict[str, Any] = {"guided": weight != 1, "progress": progress, "watch": seen}
        run = partial(flow, self, steps=steps or own.steps, **how)
        with inference(self, autocast=autocast):
            for part in in_equal_parts(run, *given, side=own.image_size):
                found.append(part)
            whole = torch.cat(found)
        return _levels(whole)


@replaceable
def flow(
    renderer: Any,
    x: Float[Tensor, "b 3 h w"],
    codes: Int[Tensor, "b n"],
    labels: Int[Tensor, " b"],
    guidance: Float[Tensor, " b"],
    *,
    steps: int,
    guided: bool,
    progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """From noise to the pictures, values from -1 to 1; labels as `known` gives them.

    The renderer is a FlowRenderer, or what has its config and its call. `guided` says that some row has
    another guidance than 1: only then there is a second pass, for all rows.
    """
    config = renderer.config
    none = torch.full_like(codes, config.codes), torch.full_like(labels, config.classes)
    twice = guided and config.taught_guidance == 1
    weight, before = guidance.view(-1, 1, 1, 1), None
    for step in range(steps):
        time = step / steps
        times = torch.full((len(x),), time, device=x.device)
        clean = renderer(x, times, codes, labels, guidance)
        if twice and time >= GUIDED_FROM:
            plain = renderer(x, times, *none)
            clean = plain + weight * (clean - plain)
        velocity = (clean - x) / (1 - time)
        x = x + (velocity if before is None else 1.5 * velocity - 0.5 * before) / steps
        before = velocity
        if progress is not None:
            progress(len(x))
        if watch is not None:
            watch(clean)
    return x


def patches_of(pictures: Float[Tensor, "b 3 h w"], side: int) -> Float[Tensor, "b n v"]:
    """Squares of pixels, `side` along a side, channel by channel, row by row."""
    size = pictures.shape[-1] // side
    cut = pictures.view(len(pictures), 3, side, size, side, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(len(pictures), side**2, -1)


def pictures_of(patches: Float[Tensor, "b n v"], side: int) -> Float[Tensor, "b 3 h w"]:
    """What `patches_of` cut."""
    size = round((patches.shape[2] // 3) ** 0.5)
    cut = patches.view(len(patches), side, side, 3, size, size)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, side * size, side * size)


def over_patches(of_codes: Float[Tensor, "b n d"], side: int) -> Float[Tensor, "b m d"]:
    """Each code's row at all patches that it covers, `side` along a side."""
    b, length, width = of_codes.shape
    grid = round(length**0.5)
    each = side // grid
    told = of_codes.view(b, grid, 1, grid, 1, width).expand(-1, -1, each, -1, each, -1)
    return told.reshape(b, side**2, width)


def _levels(clean: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Values from -1 to 1, or beyond, as values in [0, 1]."""
    return (clean.clamp(-1, 1) + 1) / 2

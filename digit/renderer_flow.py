"""codes (and class) -> pixels: the renderer that flows from noise to the picture, without a VQGAN.

Beyond the paper, whose renderers go by VQ codes. A transformer over patches predicts the clean picture from a
noisy one and the codes; its error is weighted as one of velocity (JiT, arXiv:2511.13720; flow matching,
arXiv:2210.02747). Time runs from noise at 0 to the picture at 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from digit.bounds import Count, Decay, Depth, Size, Weight
from digit.calls import check_fields, checked
from digit.errors import DigitError
from digit.nn.batch import ViewBatch, in_equal_parts
from digit.nn.checks import check_codes
from digit.nn.decoding import inference
from digit.nn.modulated import ModulatedBlock, Times, modulated
from digit.nn.noise import gaussians, keys

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

    def __post_init__(self) -> None:
        """Fail at construction with the fields."""
        check_fields(self)
        if min(self.codes, self.length) < 1 or self.classes < 0:
            raise DigitError(f"a flow renderer needs at least one code and one position, this one has {self}")
        if self.width % self.heads:
            raise DigitError(
                f"{self.heads} heads do not divide the width {self.width}: choose a divisor of it"
            )
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
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation, self.projection = nn.Linear(width, 2 * width), nn.Linear(width, values)
        for table in (self.code_embedding, self.position_embedding, self.label_embedding):
            nn.init.normal_(table.weight, std=0.02)
        for layer in (self.modulation, self.projection):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        noisy: Float[Tensor, "b 3 h w"],
        times: Float[Tensor, " b"],
        codes: Int[Tensor, "b n"],
        labels: Int[Tensor, " b"],
    ) -> Float[Tensor, "b 3 h w"]:
        """The clean pictures, values from -1 to 1, of mixtures time * picture + (1 - time) * noise.

        A code of `config.codes` is none, and so is a label of `config.classes`.
        """
        side, grid, patch = self.config.side, self.config.grid, self.config.patch
        b, each = len(noisy), side // grid
        patches = noisy.view(b, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(b, side**2, -1)
        told = self.code_embedding(codes).view(b, grid, 1, grid, 1, -1).expand(-1, -1, each, -1, each, -1)
        x = self.patch_embedding(patches) + told.reshape(b, side**2, -1) + self.position_embedding.weight
        condition = self.times(times) + self.label_embedding(labels)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(nn.functional.silu(condition)).unsqueeze(1).chunk(2, -1)
        patches = self.projection(modulated(self.norm(x), shift, scale)).float()
        return patches.view(b, side, side, 3, patch, patch).permute(0, 3, 1, 4, 2, 5).reshape(noisy.shape)

    def loss(self, batch: ViewBatch) -> Float[Tensor, ""]:
        """Squared error of the velocity from noise to picture, per value, at times drawn anew."""
        config, b, device = self.config, len(batch.codes), batch.pixels.device
        clean, noise = 2 * batch.pixels - 1, torch.randn_like(batch.pixels)
        times = torch.sigmoid(config.time_mean + config.time_deviation * torch.randn(b, device=device))
        dropped = torch.rand(b, device=device)
        codes = self._without(batch.codes, dropped < config.code_dropout, config.codes)
        labels = torch.full((b,), -1, device=device) if batch.labels is None else batch.labels
        labels = self._without(
            self._labels(labels), dropped < config.code_dropout + config.label_dropout, config.classes
        )
        mixed = times.view(-1, 1, 1, 1)
        found = self(mixed * clean + (1 - mixed) * noise, times, codes, labels)
        weight = (1 - times).clamp(min=LEAST) ** -2
        return ((found - clean).square().flatten(1).mean(1) * weight).mean()

    @staticmethod
    def _without(of: Tensor, rows: Bool[Tensor, " b"], none: int) -> Tensor:
        """Codes or labels, those of the rows replaced by none."""
        return torch.where(rows.view(-1, *[1] * (of.ndim - 1)), none, of)

    def _labels(self, labels: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Labels as the table has them: -1, and all where no class is told, as none."""
        classes = self.config.classes
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
        autocast: bool | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Draw the pictures of codes, values in [0, 1], on the renderer's device; row i depends on row i.

        Args:
            codes: of each picture.
            seeds: of the noise that a picture begins with.
            labels: numbers of classes, -1 for none; none if left out.
            steps: passes of the transformer: steps of Adams and Bashforth's method of second order.
            guidance: weight of what codes and class change; other than 1 it takes a second pass at each step.
            progress: hears how many pictures each step has passed, with those that fill up a part.
            autocast: half precision; by default on a GPU only.

        Raises:
            DigitError: codes that are not the renderer's, as many seeds or labels as there are no codes, or
                labels for a renderer that knows no classes.
        """
        own, device = self.config, self.projection.weight.device
        check_codes(len(seeds), codes, length=own.length, codes=own.codes)
        rows = torch.full((len(codes),), -1) if labels is None else torch.as_tensor(labels)
        if len(rows) != len(codes) or int(rows.max()) >= own.classes or int(rows.min()) < -1:
            known = f"0 to {own.classes - 1}, or -1 for none" if own.classes else "none, it is told no class"
            raise DigitError(
                f"labels: give one for each of {len(codes)} pictures; this renderer knows {known}"
            )
        how = {"steps": steps or own.steps, "progress": progress}
        how["guidance"] = own.guidance if guidance is None else guidance
        noise = gaussians(keys(seeds, stage="renderer_flow"), 3 * own.image_size**2)
        noise = noise.view(-1, 3, own.image_size, own.image_size)
        given = (each.to(device) for each in (noise, codes, self._labels(rows)))
        with inference(self, autocast=autocast):
            parts = in_equal_parts(partial(self._flow, **how), *given, side=own.image_size)
            found = torch.cat(list(parts))
        return (found.clone().clamp_(-1, 1) + 1) / 2

    def _flow(
        self,
        x: Float[Tensor, "b 3 h w"],
        codes: Int[Tensor, "b n"],
        labels: Int[Tensor, " b"],
        *,
        steps: int,
        guidance: float,
        progress: Callable[[int], None] | None,
    ) -> Float[Tensor, "b 3 h w"]:
        """From noise to the pictures, values from -1 to 1."""
        none = torch.full_like(codes, self.config.codes), torch.full_like(labels, self.config.classes)
        before = None
        for step in range(steps):
            time = step / steps
            times = torch.full((len(x),), time, device=x.device)
            clean = self(x, times, codes, labels)
            if guidance != 1 and time >= GUIDED_FROM:
                plain = self(x, times, *none)
                clean = plain + guidance * (clean - plain)
            velocity = (clean - x) / (1 - time)
            x = x + (velocity if before is None else 1.5 * velocity - 0.5 * before) / steps
            before = velocity
            if progress is not None:
                progress(len(x))
        return x

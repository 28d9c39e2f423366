"""codes -> VQ codes: the renderer that fills masks in a few steps (DiGIT; MaskGIT, arXiv:2202.04200)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from digit.bounds import Batch, Weight
from digit.calls import checked
from digit.errors import DigitError
from digit.nn.batch import CodeBatch
from digit.nn.checks import check_codes
from digit.nn.decoding import Watch, inference
from digit.nn.forms import replaceable
from digit.nn.labels import start_of, taught
from digit.nn.losses import cross_entropy
from digit.nn.noise import gumbels, keys
from digit.nn.sampling import SamplerConfig, draw
from digit.nn.summary import in_a_line
from digit.nn.transformer import Transformer, TransformerConfig, embedding, projection, stream
from digit.renderer import RendererConfig


@dataclass(frozen=True)
class MaskedConfig(RendererConfig):
    """The renderer's fields, with how it samples unless told otherwise."""

    steps: int = 8  # passes of the transformer per image
    noise: float = 4.5  # weight of the Gumbel noise on confidence, falling linearly to 0 at the last step


def masked_after(length: int, steps: int) -> list[int]:
    """How many of `length` VQ codes are masked after each step: a cosine, at least one until the last."""
    counts = [math.floor(length * math.cos(math.pi / 2 * (step + 1) / steps)) for step in range(steps - 1)]
    masked = [length]
    for count in counts:
        masked.append(max(1, min(masked[-1] - 1, count)))
    return [*masked[1:], 0]


class MaskedRenderer(nn.Module):
    """Transformer over [codes, separator, VQ codes or masks]; every position reads all others.

    The label, if it knows any, is the separator.
    """

    @checked
    def __init__(self, config: MaskedConfig) -> None:
        """Tables and blocks drawn as the reference draws them."""
        super().__init__()
        self.config = config
        self.scale = math.sqrt(config.width)  # of the tables, to unit variance; positions stay small
        self.code_embedding = embedding(config.codes, config.width)
        self.position_embedding = embedding(config.length, config.width)
        self.separator_embedding = embedding(config.classes + 1, config.width)  # last row: no label
        self.vq_embedding = embedding(config.vq_codes + 1, config.width)  # the last row is the mask
        self.vq_position_embedding = embedding(config.vq_length + 1, config.width)  # row 0: separator
        blocks = TransformerConfig(
            config.width, config.layers, config.heads, norm=config.norm, dropout=config.dropout, causal=False
        )
        self.transformer = Transformer(blocks)
        self.projection = projection(config.width, config.specials + config.vq_codes)

    def __repr__(self) -> str:
        """One line."""
        own = self.config
        return in_a_line(
            self, f"{own.length} codes of {own.codes:,} -> {own.vq_length} VQ codes of {own.vq_codes:,}"
        )

    @property
    def mask(self) -> int:
        """The value that stands for a masked VQ code."""
        return self.config.vq_codes

    def logits(
        self,
        codes: Int[Tensor, "b n"],
        vq_codes: Int[Tensor, "b m"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b m v"]:
        """Logits of every VQ code given the codes, the VQ codes that are not `mask`, and the label if any."""
        return self.projection(self.hidden(codes, vq_codes, labels)[:, 1:])[..., self.config.specials :]

    forward = logits

    def vocabulary_logits(
        self, codes: Int[Tensor, "b n"], vq_codes: Int[Tensor, "b m"]
    ) -> Float[Tensor, "b m+1 v"]:
        """What the reference calls logits: specials, then VQ codes; the first row is the separator's."""
        return self.projection(self.hidden(codes, vq_codes))

    def hidden(
        self,
        codes: Int[Tensor, "b n"],
        vq_codes: Int[Tensor, "b m"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b m+1 d"]:
        """The hidden states at the separator and the VQ codes."""
        x = self.vq_embedding(vq_codes) * self.scale + self.vq_position_embedding.weight[1:]
        x = torch.cat((self.embed(codes, labels), x), dim=1)
        return self.transformer(stream(x))[:, codes.shape[1] :]

    def embed(
        self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b n+1 d"]:
        """Codes and separator as the transformer reads them."""
        x = self.code_embedding(codes) * self.scale + self.position_embedding.weight
        separator = start_of(self.separator_embedding, labels) * self.scale
        separator = separator + self.vq_position_embedding.weight[:1]
        return torch.cat((x, separator.expand(len(x), 1, -1)), dim=1)

    cross_entropy = staticmethod(cross_entropy)  # a form of it may take its place in training

    def loss(self, batch: CodeBatch) -> Float[Tensor, ""]:
        """Cross-entropy in nats per masked VQ code, with label smoothing; masks come from torch's generator.

        In training some labels are dropped. With specials its softmax runs over the reference's whole
        vocabulary, as there.
        """
        assert batch.vq_codes is not None, "a renderer trains on codes with VQ codes"
        targets = batch.vq_codes
        masked = self.draw_masks(targets)
        dropout = self.config.label_dropout if self.training else 0.0
        labels = taught(batch.labels, classes=self.config.classes, dropout=dropout)
        return self.masked_loss(batch.codes, targets, masked, labels)

    def masked_loss(
        self,
        codes: Int[Tensor, "b n"],
        targets: Int[Tensor, "b m"],
        masked: Bool[Tensor, "b m"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss under given masks."""
        hidden = self.hidden(codes, targets.masked_fill(masked, self.mask), labels)[:, 1:]
        return self.cross_entropy(
            hidden.flatten(0, 1),
            self.projection.weight,
            targets.flatten() + self.config.specials,
            label_smoothing=self.config.label_smoothing,
            counted=masked.flatten(),
        )

    def draw_masks(self, vq_codes: Int[Tensor, "b m"]) -> Bool[Tensor, "b m"]:
        """A random mask per image, of floor(m cos(pi u / 2) + 1) positions with u uniform, at most all."""
        b, m = vq_codes.shape
        count = (m * torch.cos(torch.pi / 2 * torch.rand(b, 1, device=vq_codes.device)) + 1).floor()
        rank = torch.rand(b, m, device=vq_codes.device).argsort(1).argsort(1)
        return rank < count

    def check_steps(self, steps: int) -> None:
        """DigitError for more passes than there are VQ codes, or none."""
        if not 1 <= steps <= self.config.vq_length:
            most = self.config.vq_length
            raise DigitError(
                f"passes (in Python: steps) are {steps}: give 1 to {most}, the number of VQ codes"
            )

    @checked
    def sample(
        self,
        codes: Int[Tensor, "b n"],
        seeds: Sequence[int] | Int[Tensor, " b"],
        config: SamplerConfig | None = None,
        *,
        labels: Sequence[int] | Int[Tensor, " b"] | None = None,
        steps: int | None = None,
        noise: Weight | None = None,
        batch_size: Batch = 64,
        progress: Callable[[int], None] | None = None,
        watch: Watch | None = None,
        autocast: bool | None = None,
    ) -> Int[Tensor, "b m"]:
        """Draw the VQ codes of each image, on the renderer's device; row i depends on row i of what is given.

        `labels` are numbers of classes, -1 for none; none if left out. `progress` hears how many VQ codes
        each step settled, `watch` sees a batch's after it, -1 where masked. Raises DigitError for codes that
        are not the renderer's, for labels that it does not know, for guidance or missing labels where it
        never saw an image without its label, and for steps outside 1 to the number of VQ codes.
        """
        config, own = config or SamplerConfig(), self.config
        check_codes(len(seeds), codes, length=own.length, codes=own.codes)
        ids = own.labels_for(len(seeds), labels, guidance=config.guidance)
        steps, noise = own.steps if steps is None else steps, own.noise if noise is None else noise
        device = self.code_embedding.weight.device
        self.check_steps(steps)
        batches = []
        for start in range(0, len(seeds), batch_size):
            rows = slice(start, start + batch_size)
            own_keys, of_confidence = (
                keys(seeds[rows], stage=f"renderer_masked{what}") for what in ("", " confidence")
            )
            how = {"steps": steps, "noise": noise, "progress": progress, "autocast": autocast}
            how |= {"labels": None if ids is None else ids[rows].to(device), "watch": watch}
            batches.append(fill(self, codes[rows].to(device), own_keys, of_confidence, config, **how))
        return torch.cat(batches)


@replaceable
def fill(
    renderer: MaskedRenderer,
    codes: Int[Tensor, "b n"],
    keys: Int[Tensor, "b 2"],
    confidence_keys: Int[Tensor, "b 2"],
    config: SamplerConfig,
    *,
    steps: int,
    noise: float,
    labels: Int[Tensor, " b"] | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
    autocast: bool | None = None,
) -> Int[Tensor, "b m"]:
    """Draw all VQ codes of images in `steps`; after each, those that are least sure are masked again.

    A VQ code is drawn with the noise of its image's key, its position and the step. Its confidence has noise
    of the other key, whose place is the step, with a weight that falls from `noise` to 0. With guidance each
    image is read twice, with its label and without; a linear schedule rises from step to step.
    """
    b, m, device = len(codes), renderer.config.vq_length, codes.device
    gumbel = gumbels(confidence_keys.unsqueeze(1), torch.arange(steps), m).to(device)
    vq_codes = torch.full((b, m), renderer.mask, device=device)
    masked = torch.arange(m, device=device).repeat(b, 1)  # positions, equally many per image
    read = twice(codes, config), with_none(labels, config)
    with inference(renderer.transformer, autocast=autocast):
        for step, left in enumerate(masked_after(m, steps)):
            hidden = renderer.hidden(read[0], twice(vq_codes, config), read[1])[:, 1:]
            places = twice(masked, config).unsqueeze(-1)
            hidden = hidden.gather(1, places.expand(-1, -1, hidden.shape[-1]))
            logits = renderer.projection(hidden)[..., renderer.config.specials :]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if config.guidance != 1:
                conditional, null = logits.chunk(2)
                logits = null + config.guidance_at(step, steps) * (conditional - null)
            drawn = draw(logits, keys.unsqueeze(1), masked, config, step=step)
            if progress is not None:
                progress(b * (masked.shape[1] - left))
            masked = settle(
                vq_codes,
                masked,
                drawn,
                confidence=logits.log_softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1),
                gumbel=gumbel[:, step],
                noise=noise * (1 - (step + 1) / steps),
                left=left,
                mask=renderer.mask,
            )
            if watch is not None:
                watch(vq_codes.masked_fill(vq_codes == renderer.mask, -1).cpu())
    return vq_codes


def twice(rows: Tensor, config: SamplerConfig) -> Tensor:
    """What is read of images: once, or with guidance once more for those without a label."""
    return rows if config.guidance == 1 else torch.cat((rows, rows))


def with_none(labels: Int[Tensor, " b"] | None, config: SamplerConfig) -> Int[Tensor, " r"] | None:
    """The labels of rows as `twice` gives them."""
    if labels is None or config.guidance == 1:
        return labels
    return torch.cat((labels, torch.full_like(labels, -1)))


def settle(
    vq_codes: Int[Tensor, "b m"],
    masked: Int[Tensor, "b n"],
    drawn: Int[Tensor, "b n"],
    *,
    confidence: Float[Tensor, "b n"],
    gumbel: Float[Tensor, "b m"],
    noise: float,
    left: int,
    mask: int,
) -> Int[Tensor, "b l"]:
    """Write what was drawn but the `left` least sure, which are masked again; the positions of these.

    Sureness is the log-probability before filters and temperature, plus noise * gumbel of the position.
    """
    vq_codes.scatter_(1, masked, drawn)
    sure = confidence + noise * gumbel.gather(1, masked)
    still = masked.gather(1, sure.topk(left, dim=1, largest=False, sorted=False).indices)
    vq_codes.scatter_(1, still, mask)
    return still

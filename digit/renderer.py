"""codes -> VQ codes: the autoregressive renderer (DiGIT, arXiv:2410.12490)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.bounds import Batch, Depth, Size
from digit.calls import check_fields, checked
from digit.errors import DigitError
from digit.nn.batch import CodeBatch, Specials, with_end
from digit.nn.checks import check_codes, check_labels
from digit.nn.decoding import CacheBits, CodeTables, Watch, decode
from digit.nn.labels import start_of, taught
from digit.nn.losses import cross_entropy
from digit.nn.noise import keys
from digit.nn.sampling import SamplerConfig
from digit.nn.summary import in_a_line
from digit.nn.transformer import Transformer, TransformerConfig, embedding, projection, stream


@dataclass(frozen=True)
class RendererConfig:
    """The published base renderer at its default width, layers and heads."""

    codes: int  # size of the prior's vocabulary
    length: int  # codes per image
    vq_codes: int  # size of the VQGAN's vocabulary
    vq_length: int  # VQ codes per image
    classes: int = 0  # labels it can be given; 0 is the paper's, which is told none
    width: Size = 1024  # residual channels
    layers: Depth = 16  # transformer blocks
    heads: Size = 16  # attention heads
    norm: Literal["post", "pre"] = "pre"  # where the LayerNorms sit
    dropout: float = 0.1  # share of zeroed values in training
    label_dropout: float = 0.0  # share of images trained without their label, which guidance needs
    label_smoothing: float = 0.1  # share of the target spread over all VQ codes
    specials: Specials = 0  # symbols scored beside the VQ codes, never drawn: five in imported models

    def __post_init__(self) -> None:
        """Fail at construction with the fields."""
        check_fields(self)
        if min(self.codes, self.length, self.vq_codes, self.vq_length) < 1:
            raise DigitError(
                f"a renderer needs at least one code and one position on both sides, this one has {self}"
            )
        if self.classes < 0:
            raise DigitError(f"classes are {self.classes}: give their number, 0 for a renderer without")
        for name in ("label_smoothing", "label_dropout"):
            if not 0 <= (share := getattr(self, name)) < 1:
                raise DigitError(f"{name.replace('_', ' ')} is {share}: give a share from 0 to below 1")

    def labels_for(
        self, count: int, labels: Sequence[int] | Int[Tensor, " m"] | None, *, guidance: float
    ) -> Int[Tensor, " b"] | None:
        """The label of each image, -1 for none; None where no class is known.

        Raises DigitError for labels that the renderer does not know, and for guidance or missing labels where
        it never saw an image without its label.
        """
        given = None if labels is None else torch.as_tensor(labels)
        always = self.classes > 0 and self.label_dropout == 0
        how = {"classes": self.classes, "always": always, "guidance": guidance}
        found = check_labels(count, given, **how, of="renderer")
        return found if self.classes else None


class Renderer(nn.Module):
    """GPT over [codes, start, VQ codes], causal throughout; each of the two parts has its own positions.

    The label, if it knows any, is the symbol that the VQ codes start from.
    """

    @checked
    def __init__(self, config: RendererConfig) -> None:
        """Tables and blocks drawn as the reference draws them."""
        super().__init__()
        self.config = config
        self.scale = math.sqrt(config.width)  # of the tables, to unit variance; positions stay small
        self.code_embedding = embedding(config.codes, config.width)
        self.position_embedding = embedding(config.length, config.width)
        self.start_embedding = embedding(config.classes + 1, config.width)  # last row: no label
        self.vq_embedding = embedding(config.vq_codes, config.width)
        # The start, then all VQ codes but the last; that one too where the end is predicted after it.
        rows = config.vq_length + (config.specials > 0)
        self.vq_position_embedding = embedding(rows, config.width)
        self.transformer = Transformer(
            TransformerConfig(
                config.width, config.layers, config.heads, norm=config.norm, dropout=config.dropout
            )
        )
        self.projection = projection(config.width, config.specials + config.vq_codes)

    def __repr__(self) -> str:
        """One line."""
        own = self.config
        return in_a_line(
            self, f"{own.length} codes of {own.codes:,} -> {own.vq_length} VQ codes of {own.vq_codes:,}"
        )

    def logits(
        self,
        codes: Int[Tensor, "b n"],
        vq_codes: Int[Tensor, "b m"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b m v"]:
        """Logits of every VQ code given the codes, the VQ codes before it, and the label if any."""
        return self.head(self._hidden(codes, vq_codes[:, :-1], labels))[..., self.config.specials :]

    forward = logits

    def vocabulary_logits(
        self, codes: Int[Tensor, "b n"], vq_codes: Int[Tensor, "b m"]
    ) -> Float[Tensor, "b m+1 v"]:
        """What the reference calls logits: specials first, then VQ codes; the last row predicts the end.

        Raises DigitError for a renderer without specials, which has no position after the last VQ code.
        """
        if not self.config.specials:
            raise DigitError("this renderer has no special symbols, only imported ones do: use logits")
        return self.head(self._hidden(codes, vq_codes))

    def _hidden(
        self, codes: Int[Tensor, "b n"], read: Int[Tensor, "b r"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b r+1 d"]:
        positions = self.vq_position_embedding.weight[1 : 1 + read.shape[1]]
        x = torch.cat((self.embed(codes, labels), self.vq_embedding(read) * self.scale + positions), dim=1)
        return self.transformer(stream(x))[:, codes.shape[1] :]

    cross_entropy = staticmethod(cross_entropy)  # a form of it may take its place in training

    def loss(self, batch: CodeBatch) -> Float[Tensor, ""]:
        """Cross-entropy in nats per VQ code, with label smoothing; in training some labels are dropped.

        With specials it is the reference's: over its whole vocabulary, with the end after the last VQ code.
        """
        assert batch.vq_codes is not None, "a renderer trains on codes with VQ codes"
        dropout = self.config.label_dropout if self.training else 0.0
        labels = taught(batch.labels, classes=self.config.classes, dropout=dropout)
        read, targets = batch.vq_codes[:, :-1], batch.vq_codes
        if self.config.specials:
            read, targets = batch.vq_codes, with_end(batch.vq_codes, self.config.specials)
        return self.cross_entropy(
            self._hidden(batch.codes, read, labels).flatten(0, 1),
            self.projection.weight,
            targets.flatten(),
            label_smoothing=self.config.label_smoothing,
        )

    def embed(
        self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b n+1 d"]:
        """The codes and the start symbol as the transformer reads them."""
        x = self.code_embedding(codes) * self.scale + self.position_embedding.weight
        start = start_of(self.start_embedding, labels) * self.scale + self.vq_position_embedding.weight[:1]
        return torch.cat((x, start.expand(len(x), 1, -1)), dim=1)

    def head(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        """Hidden states to logits over the specials, if any, and the VQ codes."""
        return self.projection(hidden)

    def tables(self) -> CodeTables:
        """What decoding reads."""
        positions = self.vq_position_embedding.weight
        return CodeTables(
            self.vq_embedding.weight, positions, self.scale, self.projection.weight, self.config.specials
        )

    @checked
    def sample(
        self,
        codes: Int[Tensor, "b n"],
        seeds: Sequence[int] | Int[Tensor, " b"],
        config: SamplerConfig | None = None,
        *,
        labels: Sequence[int] | Int[Tensor, " b"] | None = None,
        batch_size: Batch = 64,
        progress: Callable[[int], None] | None = None,
        watch: Watch | None = None,
        autocast: bool | None = None,
        cache_bits: CacheBits = 16,
    ) -> Int[Tensor, "b m"]:
        """Draw the VQ codes of each image, on the renderer's device; row i depends on row i of what is given.

        `labels` are numbers of classes, -1 for none; none if left out. `progress` hears how many VQ codes
        each step drew, `watch` sees a batch's after it, -1 where none is drawn yet. Raises DigitError for
        codes that are not the renderer's, for labels that it does not know, and for guidance or missing
        labels where it never saw an image without its label.
        """
        config, own = config or SamplerConfig(), self.config
        check_codes(len(seeds), codes, length=own.length, codes=own.codes)
        ids = own.labels_for(len(seeds), labels, guidance=config.guidance)
        device = self.code_embedding.weight.device
        batches = []
        for start in range(0, len(seeds), batch_size):
            rows = slice(start, start + batch_size)
            given, batch = codes[rows].to(device), None if ids is None else ids[rows].to(device)
            with torch.no_grad():
                read = self.embed(given, batch)
                null_read = self.embed(given) if config.guidance != 1 else None
            batches.append(
                decode(
                    self.transformer,
                    read,
                    keys=keys(seeds[rows], stage="renderer"),
                    length=own.vq_length,
                    config=config,
                    tables=self.tables(),
                    null_prefix=null_read,
                    progress=progress,
                    watch=watch,
                    autocast=autocast,
                    cache_bits=cache_bits,
                )
            )
        return torch.cat(batches)

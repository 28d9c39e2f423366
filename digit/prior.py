"""codes -> codes: the autoregressive prior, unconditional or by class (DiGIT, arXiv:2410.12490)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.bounds import MANY, Batch, Bounds, Depth, Size
from digit.calls import check_fields, checked
from digit.errors import DigitError
from digit.nn.batch import CodeBatch, Specials, with_end
from digit.nn.checks import check_labels, check_prefix
from digit.nn.decoding import CacheBits, CodeTables, Watch, decode
from digit.nn.labels import label_ids, start_of, taught
from digit.nn.losses import cross_entropy
from digit.nn.noise import keys
from digit.nn.sampling import SamplerConfig
from digit.nn.summary import in_a_line
from digit.nn.transformer import Transformer, TransformerConfig, embedding, projection, stream

Label = Annotated[int, Bounds(-1, MANY)]  # -1 is none


@dataclass(frozen=True)
class PriorConfig:
    """The published base prior at its default width, layers and heads."""

    codes: int  # size of the vocabulary, without special symbols
    length: int  # codes per image
    classes: int = 0  # labels it can be given; 0 is unconditional
    width: Size = 1024  # residual channels
    layers: Depth = 16  # transformer blocks
    heads: Size = 16  # attention heads
    norm: Literal["post", "pre"] = "post"  # where the LayerNorms sit
    dropout: float = 0.1  # share of zeroed values in training
    label_dropout: float = 0.0  # share of images trained without their label, which guidance needs
    label_smoothing: float = 0.1  # share of the target spread over all codes
    tied: bool = False  # one table for reading and for predicting codes
    specials: Specials = 0  # symbols scored beside the codes, never drawn: five in imported models

    def __post_init__(self) -> None:
        """Fail at construction with the field's name."""
        check_fields(self)
        if self.codes < 1 or self.length < 1 or self.classes < 0:
            raise DigitError(f"a prior needs at least one code and one position, this one has {self}")
        if not 0 <= self.label_dropout < 1 or not 0 <= self.label_smoothing < 1:
            raise DigitError(
                f"label dropout and label smoothing are shares from 0 to below 1, this prior has {self}"
            )
        if self.tied and self.specials:
            raise DigitError(
                "a tied table has no rows for special symbols: set tied to false or specials to 0"
            )


class Prior(nn.Module):
    """GPT over the codes of an image in raster order; the label, if any, is the symbol it starts from."""

    @checked
    def __init__(self, config: PriorConfig) -> None:
        """Tables and blocks drawn as the reference draws them."""
        super().__init__()
        self.config = config
        self.scale = math.sqrt(config.width)  # of the tables, to unit variance; positions stay small
        self.start_embedding = embedding(config.classes + 1, config.width)  # last row: no label
        self.code_embedding = embedding(config.codes, config.width)
        # One row more than predictions need: the states of the last code are read by linear probes.
        self.position_embedding = embedding(config.length + 1, config.width)
        self.transformer = Transformer(
            TransformerConfig(
                config.width, config.layers, config.heads, norm=config.norm, dropout=config.dropout
            )
        )
        self.projection = None if config.tied else projection(config.width, config.specials + config.codes)

    def __repr__(self) -> str:
        """One line."""
        return in_a_line(
            self, f"{self.config.length} codes of {self.config.codes:,}", f"{self.config.classes:,} classes"
        )

    def logits(
        self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b n k"]:
        """Logits of every code given those before it. Labels in [0, classes), -1 or None for no label."""
        scores = self.head(self.transformer(self.embed(codes[:, :-1], labels)))
        return scores[..., self.config.specials :]

    forward = logits

    def vocabulary_logits(
        self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b n+1 v"]:
        """What the reference calls logits: specials first, then codes, and after the last code once more."""
        return self.head(self.transformer(self.embed(codes, labels)))

    cross_entropy = staticmethod(cross_entropy)  # a form of it may take its place in training

    def loss(self, batch: CodeBatch) -> Float[Tensor, ""]:
        """Cross-entropy in nats per code, with label smoothing; in training some labels are dropped.

        With specials it is the reference's: over its whole vocabulary, the end after the last code included.
        """
        dropout = self.config.label_dropout if self.training else 0.0
        labels = taught(batch.labels, classes=self.config.classes, dropout=dropout)
        if self.config.specials:
            read, targets = batch.codes, with_end(batch.codes, self.config.specials)
        else:
            read, targets = batch.codes[:, :-1], batch.codes
        hidden = self.transformer(stream(self.embed(read, labels)))
        table = self.code_embedding if self.projection is None else self.projection
        return self.cross_entropy(
            hidden.flatten(0, 1),
            table.weight,
            targets.flatten(),
            label_smoothing=self.config.label_smoothing,
        )

    def states(
        self, codes: Int[Tensor, "b n"], labels: Int[Tensor, " b"] | None = None
    ) -> list[Float[Tensor, "b n+1 d"]]:
        """What each block reads and what the last gives, at the start and each code: layers + 1 tensors."""
        return self.transformer.states(self.embed(codes, labels))

    def embed(
        self, codes: Int[Tensor, "b t"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b t+1 d"]:
        """The start symbol and t codes as the transformer reads them."""
        if labels is None:
            labels = torch.full((len(codes),), -1, device=codes.device)
        start = start_of(self.start_embedding, labels)
        x = torch.cat((start, self.code_embedding(codes)), dim=1) * self.scale
        return x + self.position_embedding.weight[: x.shape[1]]

    def head(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        """Hidden states to logits over the specials, if any, and the codes."""
        if self.projection is None:
            return F.linear(hidden, self.code_embedding.weight)
        return self.projection(hidden)

    def tables(self) -> CodeTables:
        """What decoding reads."""
        head = self.code_embedding if self.projection is None else self.projection
        positions = self.position_embedding.weight
        return CodeTables(
            self.code_embedding.weight, positions, self.scale, head.weight, self.config.specials
        )

    def labels_for(
        self, count: int, labels: Sequence[int | str] | Int[Tensor, " m"] | None, *, guidance: float
    ) -> Int[Tensor, " b"]:
        """The number of each seed's class, -1 where it has none; names are those that a loaded prior knows.

        Raises DigitError for labels and guidance that `sample` refuses.
        """
        classes = self.config.classes
        if labels is not None and not isinstance(labels, Tensor):
            known = {"names": getattr(self, "artifact", {}).get("classes") or (), "classes": classes}
            ids = [each if isinstance(each, int) else label_ids([each], **known)[0] for each in labels]
            labels = torch.tensor(ids, dtype=torch.int64)
        always = classes > 0 and self.config.label_dropout == 0
        return check_labels(count, labels, classes=classes, always=always, guidance=guidance)

    @checked
    def sample(
        self,
        seeds: Sequence[int] | Int[Tensor, " b"],
        labels: Sequence[Label | str] | Int[Tensor, " b"] | None = None,
        config: SamplerConfig | None = None,
        *,
        prefix: Int[Tensor, "b p"] | None = None,
        batch_size: Batch = 64,
        progress: Callable[[int], None] | None = None,
        watch: Watch | None = None,
        autocast: bool | None = None,
        cache_bits: CacheBits = 16,
    ) -> Int[Tensor, "b n"]:
        """Draw one image's codes per seed, on the prior's device; row i is a function of seed and label i.

        With a `prefix` the first p codes of each image are given and the others drawn, each with the noise
        that its position always has: the first codes of a sample as prefix give that sample again. A prefix
        of all codes costs nothing. `progress` hears how many codes each step drew, `watch` sees a
        batch's codes after it, -1 where none is drawn yet. Raises DigitError for labels the prior does not
        know, for guidance or missing labels where it never saw an image without its label, and for a prefix
        that is not of this prior.
        """
        config, own = config or SamplerConfig(), self.config
        ids = self.labels_for(len(seeds), labels, guidance=config.guidance)
        if prefix is None:
            prefix = torch.empty(len(seeds), 0, dtype=torch.int64)
        check_prefix(len(seeds), prefix, length=own.length, codes=own.codes)
        device = self.code_embedding.weight.device
        batches = []
        for start in range(0, len(seeds), batch_size):
            rows = slice(start, start + batch_size)
            given, batch = prefix[rows].to(device), ids[rows].to(device)
            with torch.no_grad():
                read = self.embed(given, batch)
                null_read = self.embed(given) if config.guidance != 1 else None
            batches.append(
                decode(
                    self.transformer,
                    read,
                    keys=keys(seeds[rows], stage="prior"),
                    length=own.length,
                    config=config,
                    tables=self.tables(),
                    null_prefix=null_read,
                    given=given,
                    progress=progress,
                    watch=watch,
                    autocast=autocast,
                    cache_bits=cache_bits,
                )
            )
        return torch.cat(batches)

"""Labelled codes -> states of a frozen prior, which a linear probe is trained on and measured by."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.data.codes import CodeData, Codes, open_codes
from digit.evaluation.probe import head_accuracies, pooled_states
from digit.nn.batch import CodeBatch
from digit.nn.linear_probe import FeatureBatch, Probe
from digit.prior import Prior
from digit.run.class_names import labels_among
from digit.run.evaluate.probe_states import check_codes
from digit.run.stages import Evaluate, first_codes
from digit.training.config import TrainConfig
from digit.weights.artifact import artifact_of, load


class FrozenStates:
    """Codes -> a frozen prior's states (b, layers, width), which a probe is trained on."""

    def __init__(self, path: Path, last_block: bool, training: TrainConfig, where: torch.device) -> None:
        """Without `last_block` the last block's output is left out."""
        self.path, self.where = path, where
        self.prior: Any = load(path, kind="prior", device=where)
        origin = artifact_of(self.prior)
        self.identity, self.lineage = origin["id"], origin["lineage"]
        self.over = "vq_codes" if "vqgan" in self.lineage else "codes"
        self.layers, self.width = self.prior.config.layers + last_block, self.prior.config.width
        self.size = training.micro_batch or training.batch
        self.bf16 = training.precision == "bf16" or (training.precision == "auto" and where.type == "cuda")

    def __call__(self, batch: Int[Tensor, "b n"]) -> Float[Tensor, "b l d"]:
        """The states of a batch, a micro-batch at once."""
        with torch.autocast(self.where.type, dtype=torch.bfloat16, enabled=self.bf16):
            parts = batch.split(self.size)
            return torch.cat([pooled_states(self.prior, part)[:, : self.layers] for part in parts])

    def check(self, codes: Codes) -> None:
        """DigitError where codes have no labels or are not those that the prior reads."""
        check_codes(codes, self.prior, self.over, self.lineage, self.path)

    def data(self, codes: Codes, training: TrainConfig) -> Callable[[int], FeatureBatch]:
        """The batch of an update, out of the codes' batch."""
        more = {"batch_size": training.batch, "arrays": (self.over,), "seed": training.seed}
        source = CodeData(codes, device=self.where, **more)

        def batch_of(step: int) -> FeatureBatch:
            batch = source(step)
            assert batch.labels is not None
            return FeatureBatch(self(batch.codes), batch.labels)

        return batch_of

    def with_probe(self, probe: Probe) -> nn.Module:
        """All that an update of the probe computes, for a dry run."""
        return _WithPrior(probe, self.prior.to("meta"), self.layers)


class _WithPrior(nn.Module):
    def __init__(self, probe: Probe, prior: Prior, layers: int) -> None:
        super().__init__()
        self.probe, self.prior, self.layers = probe, prior.requires_grad_(False), layers

    def loss(self, batch: CodeBatch) -> Tensor:
        """The probe's loss."""
        assert batch.labels is not None
        states = pooled_states(self.prior, batch.codes)[:, : self.layers]
        return self.probe.loss(FeatureBatch(states, batch.labels))


def top_1(path: Path | None, trained_on: Codes, states: FrozenStates) -> Evaluate | None:
    """Top-1 of each layer's best head over the first view of every unseen picture, or nothing to measure."""
    if path is None:
        return None
    codes = open_codes(path)
    states.check(codes)
    labels = labels_among(codes, trained_on.classes, known_to=trained_on.path)
    tokens, where = first_codes(codes, states.over), states.where

    def evaluate(probe: Probe, step: int) -> Iterator[tuple[str, float]]:
        rates = probe.config.learning_rates
        right = torch.zeros(probe.config.layers, len(rates), device=where)
        for part, truth in zip(tokens.split(states.size), labels.split(states.size), strict=True):
            right += head_accuracies(probe, states(part.to(where)), truth.to(where)) * len(part)
        for layer, heads in enumerate((right / len(tokens)).tolist()):
            yield f"top-1 layer {layer}", max(heads)
            if len(rates) > 1:
                yield f"learning rate layer {layer}", rates[heads.index(max(heads))]

    return evaluate

"""features -> labels: what a linear layer reads out of frozen features (DiGIT, section 4.2, figure 3b)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.data.order import order
from digit.errors import DigitError
from digit.prior import Prior
from digit.tokenizer import Tokenizer

Pool = Literal["all", "codes"]  # the start and all codes, as the reference; the codes alone
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of heads trained beside each other, in units of the optimizer's


class FeatureBatch(NamedTuple):
    """Frozen features of b pictures, of one layer or of several beside each other."""

    features: Float[Tensor, "b l d"]  # pooled over the picture's positions, one row a layer
    labels: Int[Tensor, " b"]


class FeatureData:
    """`data(step)` over cached features: a pure function of (seed, step), as for pictures.

    Features may lie in a memory map; `rows` are those to train on, all if left out.
    """

    def __init__(
        self,
        features: Float[Tensor, "n l d"],
        labels: Int[Tensor, " n"],
        *,
        batch_size: int,
        seed: int = 0,
        rows: Int[Tensor, " m"] | None = None,
    ) -> None:
        self.features, self.labels, self.batch_size, self.seed = features, labels, batch_size, seed
        self.rows = None if rows is None else rows.cpu()

    def __call__(self, step: int) -> FeatureBatch:
        """The batch of step `step`, on the features' device."""
        count = len(self.labels) if self.rows is None else len(self.rows)
        chosen = torch.from_numpy(order(self.seed, step, self.batch_size, count))
        if self.rows is not None:
            chosen = self.rows[chosen]
        return FeatureBatch(
            self.features[chosen.to(self.features.device)], self.labels[chosen.to(self.labels.device)]
        )


@dataclass(frozen=True)
class ProbeConfig:
    """A linear head for every layer and learning rate, all trained side by side."""

    width: int  # features per picture
    classes: int  # labels are 0 .. classes - 1
    layers: int = 1  # layers read, each by heads of its own
    learning_rates: tuple[float, ...] = RATES  # of each head, in units of the optimizer's
    start: float = 0.0  # standard deviation of the weights before training; 0.01 in the reference


class Probe(nn.Module):
    """A stage: heads share each batch and nothing else, so one run is a sweep over layers and learning rates.

    Train with AdamW (lr 1e-3, no weight decay, cosine) on a few dozen epochs of cached features. The
    reference's heads are those with learning_rates (1.0,): one nn.Linear a layer, its weights transposed, on
    the rows of `pooled_states`.
    """

    mean: Tensor
    scale: Tensor
    rates: Tensor

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config = config
        heads = (config.layers, len(config.learning_rates))
        # A convex problem: zero is as good a start as any, and needs no seed.
        self.weight = nn.Parameter(torch.zeros(*heads, config.width, config.classes))
        if config.start:
            nn.init.normal_(self.weight, std=config.start)
        self.bias = nn.Parameter(torch.zeros(*heads, config.classes))
        self.register_buffer("mean", torch.zeros(config.layers, config.width))
        self.register_buffer("scale", torch.ones(config.layers, config.width))
        self.register_buffer("rates", torch.tensor(config.learning_rates), persistent=False)

    def standardize(self, features: Float[Tensor, "n l d"]) -> None:
        """From now on subtract these features' mean and divide by their deviation.

        Without this call features are read as they are, which is the paper's protocol.
        """
        # In pieces: the features may be more than memory holds, and float64 makes one pass exact enough.
        total = square = torch.zeros(self.mean.shape, dtype=torch.float64, device=features.device)
        for part in features.split(1024):
            part = part.double()
            total, square = total + part.sum(0), square + part.square().sum(0)
        mean = total / len(features)
        variance = (square - len(features) * mean.square()).clamp_min(0) / max(1, len(features) - 1)
        self.mean.copy_(mean)
        self.scale.copy_(1 / variance.sqrt().clamp_min(1e-6))

    def logits(self, features: Float[Tensor, "b l d"]) -> Float[Tensor, "b l r c"]:
        """Class logits of every layer's heads, one for each learning rate."""
        inputs = (features.float() - self.mean) * self.scale
        # Adam moves a parameter by its learning rate whatever the gradient's size, so a head whose parameters
        # count `rate` times learns at `rate` times the optimizer's rate.
        weight, bias = self.weight * self.rates[:, None, None], self.bias * self.rates[:, None]
        return torch.einsum("bld,lrdc->blrc", inputs, weight) + bias

    forward = logits

    def loss(self, batch: FeatureBatch) -> Float[Tensor, ""]:
        """The heads' cross-entropies, added up."""
        logits = self.logits(batch.features)
        _, layers, rates, classes = logits.shape
        labels = batch.labels[:, None, None].expand(-1, layers, rates)
        losses = F.cross_entropy(logits.float().reshape(-1, classes), labels.reshape(-1), reduction="sum")
        return losses / len(batch.labels)


@torch.no_grad()
def pooled_states(
    prior: Prior,
    codes: Int[Tensor, "b n"],
    labels: Int[Tensor, " b"] | None = None,
    *,
    pool: Pool = "all",
) -> Float[Tensor, "b l d"]:
    """What the reference's linear probe reads: a prior's states, averaged over the start and all n codes.

    Row i is what block i reads (row 0: the embeddings), the last row what the last block gives: layers + 1
    rows. The reference has heads for all rows but the last one (fairseq's inner_states[0 .. layers - 1]). The
    prior is run as in evaluation, whatever its mode; its labels are unknown unless given, as there. With
    `pool` "codes" the start is left out of the average. float32.
    """
    training, first = prior.training, int(pool == "codes")
    prior.eval()
    try:
        return torch.stack([state[:, first:].float().mean(1) for state in prior.states(codes, labels)], 1)
    finally:
        prior.train(training)


@torch.no_grad()
def pooled_features(tokenizer: Tokenizer, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 d"]:
    """What a tokenizer's encoder says of a picture before quantisation: its patches' mean, float32."""
    return tokenizer.features(pixels).float().mean(1, keepdim=True)


@torch.inference_mode()
def head_accuracies(
    probe: Probe, features: Float[Tensor, "n l d"], labels: Int[Tensor, " n"], *, batch_size: int = 1024
) -> Float[Tensor, "l r"]:
    """Share of pictures, in [0, 1], that each head labels rightly, by layer and learning rate."""
    if len(labels) == 0:
        raise DigitError("a probe needs held-out pictures: give some that it was not trained on")
    where = probe.weight.device
    right = torch.zeros(features.shape[1], len(probe.config.learning_rates), device=where)
    for part, truth in zip(features.split(batch_size), labels.split(batch_size), strict=True):
        right += (probe.logits(part.to(where)).argmax(-1) == truth.to(where)[:, None, None]).sum(0)
    return right / len(labels)


def probe_results(
    probe: Probe,
    held_out: tuple[Float[Tensor, "n l d"], Int[Tensor, " n"]],
    test: tuple[Float[Tensor, "m l d"], Int[Tensor, " m"]] | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield ("top-1 layer i", share) and ("learning rate layer i", rate) of each layer's best head.

    Then ("best layer", i) and ("top-1 best layer", share). Heads and layer are chosen on `held_out` and
    scored on `test`. Without `test` they are scored where they were chosen, as papers do, which is slightly
    optimistic.
    """
    chosen = head_accuracies(probe, *held_out)
    scored = chosen if test is None else head_accuracies(probe, *test)
    heads = chosen.argmax(1).tolist()
    for layer, head in enumerate(heads):
        yield f"top-1 layer {layer}", float(scored[layer, head])
        yield f"learning rate layer {layer}", probe.config.learning_rates[head]
    best = int(chosen.max(1).values.argmax())
    yield "best layer", float(best)
    yield "top-1 best layer", float(scored[best, heads[best]])

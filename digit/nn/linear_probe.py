"""features -> labels: what a linear layer reads out of frozen features (DiGIT, section 4.2, figure 3b)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

RATES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of heads trained beside each other, in units of the optimizer's


class FeatureBatch(NamedTuple):
    """Frozen features of b pictures, of one layer or of several beside each other."""

    features: Float[Tensor, "b l d"]  # pooled over the picture's positions, one row per layer
    labels: Int[Tensor, " b"]


@dataclass(frozen=True)
class ProbeConfig:
    """A linear head per layer and learning rate, all trained side by side."""

    width: int  # features per picture
    classes: int  # labels are 0 .. classes - 1
    layers: int = 1  # layers read, each by heads of its own
    learning_rates: tuple[float, ...] = RATES  # of each head, in units of the optimizer's
    start: float = 0.0  # standard deviation of the weights before training; 0.01 in the reference


class Probe(nn.Module):
    """A stage: heads share each batch and nothing else, so one run is a sweep over layers and learning rates.

    Train with AdamW (lr 1e-3, no weight decay, cosine) on a few dozen epochs of cached features. The
    reference's heads are those with learning_rates (1.0,): one nn.Linear per layer, its weights transposed,
    on the rows of `pooled_states`.
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
        """Class logits of every layer's heads, one per learning rate."""
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

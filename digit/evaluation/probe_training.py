"""cached features, labels -> a trained probe: every layer and learning rate in one run of small updates."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.errors import DigitError
from digit.nn.linear_probe import RATES, FeatureBatch, FeatureData, Probe, ProbeConfig


def fit_probe(
    features: Float[Tensor, "n l d"],
    labels: Int[Tensor, " n"],
    *,
    classes: int,
    rows: Int[Tensor, " m"] | None = None,
    learning_rates: tuple[float, ...] = RATES,
    lr: float = 1e-3,
    epochs: float = 30.0,
    batch_size: int = 1024,
    standardize: bool = True,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[int], None] | None = None,
) -> Probe:
    """Train a head for every layer and learning rate on cached features: AdamW, cosine, no weight decay.

    Args:
        features: of any float type; they may stay in a memory map or on the CPU while `device` is a GPU.
        labels: from 0 to classes - 1.
        classes: how many there are.
        rows: those to train on; all if left out.
        learning_rates: of the heads, in units of `lr`.
        lr: peak learning rate of the optimizer.
        epochs: over the rows.
        batch_size: pictures per update, all of them if there are fewer.
        standardize: see Probe.standardize; a linear head can say the same without, but learns it slowly.
        seed: of the order of pictures.
        device: of the heads; where the features are if left out.
        progress: called with 1 after each update.
    """
    count, layers, width = (len(labels) if rows is None else len(rows)), *features.shape[1:]
    if count == 0:
        raise DigitError("a probe needs pictures to train on: give some")
    where = torch.device(device) if device is not None else features.device
    probe = Probe(ProbeConfig(width, classes, layers=layers, learning_rates=learning_rates)).to(where)
    if standardize:
        probe.standardize(features)
    data = FeatureData(features, labels, batch_size=min(batch_size, count), seed=seed, rows=rows)
    steps = max(1, round(epochs * count / data.batch_size))
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch = data(step)
        loss = probe.loss(FeatureBatch(batch.features.to(where), batch.labels.to(where)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(1)
    return probe.eval()


def split_rows(
    count: int, *, share: float = 0.1, most: int = 50_000, seed: int = 0
) -> tuple[Int[Tensor, " m"], Int[Tensor, " h"]]:
    """Rows to train on, and a random part of at most `most` held out to choose layers and rates on."""
    if count < 2:
        raise DigitError(f"{count} picture cannot be split into one part to train on and one to choose on")
    out = min(most, max(1, round(share * count)), count - 1)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return shuffled[out:].sort().values, shuffled[:out].sort().values

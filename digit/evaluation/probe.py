"""frozen features, labels -> accuracies: what linear heads read out of a prior or a tokenizer."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.data.order import order
from digit.errors import DigitError
from digit.nn.linear_probe import RATES, FeatureBatch, Probe, ProbeConfig
from digit.own_tokenizer import OwnTokenizer
from digit.prior import Prior
from digit.tokenizer import Tokenizer
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.update import Updater

Pool = Literal["all", "codes"]  # the start and all codes, as the reference; the codes alone


@torch.no_grad()
def pooled_states(
    prior: Prior,
    codes: Int[Tensor, "b n"],
    labels: Int[Tensor, " b"] | None = None,
    *,
    pool: Pool = "all",
) -> Float[Tensor, "b l d"]:
    """What the reference's linear probe reads: a prior's states, averaged over the start and all n codes.

    Row i is what block i reads (row 0: the embeddings), the last of layers + 1 rows what the last block
    gives; the reference has heads for all but that one (fairseq's inner_states[0 .. layers - 1]). Runs as in
    evaluation; labels are unknown unless given. With `pool` "codes" the start is left out. float32.
    """
    training, first = prior.training, int(pool == "codes")
    prior.eval()
    try:
        return torch.stack([state[:, first:].float().mean(1) for state in prior.states(codes, labels)], 1)
    finally:
        prior.train(training)


@torch.no_grad()
def pooled_features(
    tokenizer: Tokenizer | OwnTokenizer, pixels: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 1 d"]:
    """What a tokenizer's encoder says of a picture before quantisation: its patches' mean, float32."""
    features: Any = tokenizer.features  # pyright: ignore[reportAttributeAccessIssue]
    return features(pixels).float().mean(1, keepdim=True)


def feature_data(
    features: Float[Tensor, "n l d"],
    labels: Int[Tensor, " n"],
    *,
    batch_size: int,
    seed: int = 0,
    rows: Int[Tensor, " m"] | None = None,
) -> Callable[[int], FeatureBatch]:
    """`data(step)` over cached features, on their device: a pure function of (seed, step), as for pictures.

    Features may lie in a memory map; `rows` are those to train on, all if left out.
    """
    kept = torch.arange(len(labels)) if rows is None else rows.cpu()

    def data(step: int) -> FeatureBatch:
        chosen = kept[torch.from_numpy(order(seed, step, batch_size, len(kept)))]
        return FeatureBatch(features[chosen.to(features.device)], labels[chosen.to(labels.device)])

    return data


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

    The updates are those of every training (digit/training/update.py); nothing is saved on the way.

    Args:
        features: of any float type; they may stay in a memory map or on the CPU while `device` is a GPU.
        labels: from 0 to classes - 1.
        classes: how many there are.
        rows: those to train on; all if left out.
        learning_rates: of the heads, in units of `lr`, the peak.
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
    size = min(batch_size, count)
    data = feature_data(features, labels, batch_size=size, seed=seed, rows=rows)
    steps = max(1, round(epochs * count / size))
    cosine = OptimizerConfig(lr=lr, betas=(0.9, 0.999), weight_decay=0.0, schedule="cosine", warmup=0)
    config = TrainConfig(steps=steps, batch=size, optimizer=cosine, clip=None, precision="fp32", seed=seed)
    with torch.random.fork_rng([where] if where.type == "cuda" else []):  # the caller's randomness goes on
        updater = Updater(probe, config, where)
        for step in range(steps):
            batch = data(step)
            updater.update(FeatureBatch(batch.features.to(where), batch.labels.to(where)))
            if progress is not None:
                progress(1)
        updater.read_losses("a probe is not saved on its way")
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
    scored on `test`; without it where they were chosen, as papers do, which is slightly optimistic.
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

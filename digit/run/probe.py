"""`digit train linear_probe`: codes -> a frozen prior's states -> linear heads, by the one loop."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.data.codes import CodeData, Codes
from digit.errors import DigitError
from digit.evaluation.probe import head_accuracies, pooled_states
from digit.nn.batch import CodeBatch
from digit.nn.linear_probe import FeatureBatch, Probe, ProbeConfig
from digit.prior import Prior
from digit.run.device import choose_device
from digit.run.dry_run import DryRun, code_batch, describe_codes, dry_run
from digit.run.probe_states import check_codes
from digit.run.recipes import linear_probe
from digit.run.train import run_stage, seeded
from digit.training.config import TrainConfig
from digit.weights.artifact import artifact_of, load, save

RECIPE = linear_probe()


def train_linear_probe(
    prior: Path,
    codes: Path,
    out: Path,
    *,
    held_out: Path | None = None,
    last_block: bool = True,
    learning_rates: tuple[float, ...] = (1.0,),
    start: float = 0.01,
    training: TrainConfig = RECIPE.training,
    device: str | None = None,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train linear heads on a frozen prior's states, one for each layer (DiGIT, section 4.2, figure 3b).

    Each head reads the mean over the start and all codes of what one block reads, without any norm; the prior
    is given no label. The same command resumes an interrupted run.

    Args:
        prior: artifact of the prior, which stays as it is.
        codes: folder of `digit tokenize` with labels, made by the tokenizer of the prior.
        out: the run's folder: artifact of kind probe, log.jsonl, loss.png, state/.
        held_out: codes of the validation pictures, for the top-1 of each layer.
        last_block: read the last block's output too, which the reference never does.
        learning_rates: a head for each, in units of the optimizer's; the best is reported.
        start: standard deviation of the heads' weights before training.
        training: steps, batch, learning rate and the rest of the loop.
        device: cpu, cuda or cuda:N; a GPU if there is one.
        plan: what --dry-run estimates.
    """
    where = choose_device(device)
    opened = Codes(codes)
    frozen: Any = load(prior, kind="prior", device=where)
    origin = artifact_of(frozen)
    over = "vq_codes" if "vqgan" in origin["lineage"] else "codes"
    check_codes(opened, frozen, over, origin["lineage"], prior)
    layers = frozen.config.layers + last_block
    classes, width = len(opened.classes), frozen.config.width
    shape = ProbeConfig(width, classes, layers=layers, learning_rates=learning_rates, start=start)
    with seeded(training.seed), plan.building():
        stage = Probe(shape)
    size = training.micro_batch or training.batch
    bf16 = training.precision == "bf16" or (training.precision == "auto" and where.type == "cuda")

    def features(batch: Int[Tensor, "b n"]) -> Float[Tensor, "b l d"]:
        with torch.autocast(where.type, dtype=torch.bfloat16, enabled=bf16):
            return torch.cat([pooled_states(frozen, part)[:, :layers] for part in batch.split(size)])

    def on_save(trained: Probe, state: Path | None) -> None:
        save(trained, out, lineage={"prior": origin["id"]}, classes=opened.classes)

    evaluate = None
    if held_out is not None:
        unseen = Codes(held_out)
        check_codes(unseen, frozen, over, origin["lineage"], prior)
        if unseen.classes != opened.classes:
            raise DigitError(f"{held_out} has other classes than {codes}: give codes of the same classes")
        evaluate = _accuracies(unseen, over, features, where, size)
    if plan.dry_run:
        whole = _WithPrior(stage, frozen.to("meta"), layers)
        batch, inputs = code_batch(frozen.config.length), describe_codes(opened) | {"prior": prior}
        return dry_run(stage, batch, training, out, plan, model=shape, inputs=inputs, counted_as=whole)
    source = CodeData(opened, batch_size=training.batch, arrays=(over,), seed=training.seed, device=where)

    def data(step: int) -> FeatureBatch:
        batch = source(step)
        assert batch.labels is not None
        return FeatureBatch(features(batch.codes), batch.labels)

    return run_stage(stage, data, training, out, where, evaluate, None, on_save, title="linear probe")


class _WithPrior(torch.nn.Module):
    """All that an update of the probe computes, the frozen prior's states included."""

    def __init__(self, probe: Probe, prior: Prior, layers: int) -> None:
        super().__init__()
        self.probe, self.prior, self.layers = probe, prior.requires_grad_(False), layers

    def loss(self, batch: CodeBatch) -> Tensor:
        """The probe's loss."""
        assert batch.labels is not None
        states = pooled_states(self.prior, batch.codes)[:, : self.layers]
        return self.probe.loss(FeatureBatch(states, batch.labels))


def _accuracies(
    codes: Codes, over: str, features: Callable[[Tensor], Tensor], where: torch.device, size: int
) -> Callable[[Probe, int], Iterator[tuple[str, float]]]:
    """Top-1 of each layer's best head over the first view of every unseen image, `size` of them at once."""
    tokens = torch.from_numpy(codes.array(over)[:, 0].astype(np.int64))
    labels = torch.from_numpy(codes.labels)

    def evaluate(probe: Probe, step: int) -> Iterator[tuple[str, float]]:
        rates = probe.config.learning_rates
        right = torch.zeros(probe.config.layers, len(rates), device=where)
        for part, truth in zip(tokens.split(size), labels.split(size), strict=True):
            right += head_accuracies(probe, features(part.to(where)), truth.to(where)) * len(part)
        for layer, heads in enumerate((right / len(tokens)).tolist()):
            yield f"top-1 layer {layer}", max(heads)
            if len(rates) > 1:
                yield f"learning rate layer {layer}", rates[heads.index(max(heads))]

    return evaluate

"""`digit train prior`: codes -> the GPT that draws codes (stage 1 of the paper)."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from digit.bounds import Decay, Depth, Size
from digit.calls import checked
from digit.run.dry_run import DryRun
from digit.run.options import Codes, Device, FileOnly, Folder, Model, Training
from digit.run.recipes import by_recipe
from digit.training.config import OptimizerConfig, TrainConfig

PRIOR = TrainConfig(steps=125_000, batch=2048, optimizer=OptimizerConfig())

PriorRecipe = Literal[
    "base", "base_400", "base_cond", "base_cond_400", "large", "large_cond", "vq_only", "ablation_39m"
]


@checked
@by_recipe("prior")
def train_prior(
    codes: Codes,
    out: Folder,
    *,
    recipe: PriorRecipe | None = None,
    over: Literal["codes", "vq_codes"] = "codes",
    conditional: bool = True,
    width: Size = 1024,
    layers: Depth = 16,
    heads: Size | None = None,
    norm: Literal["post", "pre"] = "post",
    dropout: Decay = 0.1,
    label_dropout: Decay = 0.0,
    label_smoothing: Decay = 0.1,
    tied: FileOnly[bool] = False,
    init_from: Model | None = None,
    training: Training = PRIOR,
    held_out: Codes | None = None,
    renderer: Folder | None = None,
    vqgan: Folder | None = None,
    device: Device | None = None,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train the GPT over codes (stage 1 of the paper). The same command resumes an interrupted run.

    Example: digit train prior --recipe base_cond --codes runs/codes --out runs/prior --vqgan runs/vqgan

    Args:
        codes: folder of `digit tokenize`.
        out: the run's folder: artifact, log.jsonl, loss.png, samples/, state/.
        recipe: a published run, whose settings then are the defaults (`digit train --help` lists them all).
        over: discriminative codes, or VQ codes for the paper's baseline.
        conditional: by class, where the codes have labels.
        width: channels.
        layers: transformer blocks.
        heads: attention heads; one per 64 channels if left out.
        norm: post as in the paper, or pre.
        dropout: share of values dropped.
        label_dropout: share of labels dropped; above 0 the prior also draws without a class, and guided.
        label_smoothing: of the cross-entropy.
        tied: one table for reading and predicting codes.
        init_from: weights to start from, whose shape is the default: a run or model, here, bundled or on the
            hub, made on codes of the same tokenizer. Not used where the run goes on.
        training: steps, batch, learning rate and the rest of the loop.
        held_out: codes of unseen pictures, for the held-out loss.
        renderer: artifact, for sample pictures while training; else samples/ shows the codes as colours.
        vqgan: artifact, likewise.
        device: cpu, cuda, cuda:N or mps; an NVIDIA GPU if there is one.
        plan: what --dry-run estimates.
    """
    given = dict(locals())
    from digit.data.codes import CodeData, open_codes
    from digit.data.identity import of_codes, of_folder
    from digit.prior import Prior, PriorConfig
    from digit.run import stages
    from digit.run.class_names import check_classes
    from digit.run.device import choose_device
    from digit.run.dry_run import code_batch, describe_codes, dry_run
    from digit.run.start import started
    from digit.weights.artifact import save
    from digit.weights.storage import to_dict

    where, opened = choose_device(device), open_codes(codes)
    opened.check_square(over)
    classes = stages.classes_of(opened, conditional, recipe)
    config = PriorConfig(
        codes=opened.vocabulary(over),
        length=opened.length(over),
        classes=len(classes),
        width=width,
        layers=layers,
        heads=heads or max(1, width // 64),
        norm=norm,
        dropout=dropout,
        label_dropout=label_dropout if classes else 0.0,
        label_smoothing=label_smoothing,
        tied=tied,
    )
    stage = stages.build(lambda: Prior(config), training, plan)
    lineage = opened.lineage(over)
    start = started(stage, out, init_from, classes=classes, lineage=lineage)
    picture = stages.prior_pictures(config, over, renderer, vqgan, lineage, where)
    known: dict[str, Any] = {"classes": classes, "unlabelled": config.label_dropout > 0}
    evaluate = stages.held_out_loss(held_out, (over,), lineage, where, training, **known)
    check_classes(out, "prior", classes)
    data_is = {"over": over, "codes": of_codes(opened, over, labels=bool(classes))}
    made_of = {**data_is, "model": to_dict(config), "held_out": of_folder(held_out), **start}
    found = stages.claimed(out, "train prior", **made_of)
    if plan.dry_run:
        batch = code_batch(config.length)
        return dry_run(stage, batch, training, out, plan, model=config, inputs=describe_codes(opened))
    how: Any = {"batch_size": training.batch, "seed": training.seed, "device": where}
    data = partial(CodeData, opened, arrays=(over,), **how)

    def keep(trained: Prior, to: Path, extra: dict[str, Any] | None = None) -> None:
        save(trained, to, lineage=lineage | start, classes=classes, extra=extra)

    return stages.run_stage(stage, data, training, found, given, where, evaluate, picture, keep, "prior")

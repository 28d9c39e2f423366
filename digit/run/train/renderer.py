"""`digit train renderer`: codes -> what makes VQ codes or pixels of them (stage 2 of the paper)."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from digit.bounds import Count, Decay, Depth, Size, Weight
from digit.calls import checked
from digit.errors import DigitError
from digit.run.dry_run import DryRun
from digit.run.options import Codes, Device, FileOnly, Folder, Model, Pictures, Tokenizing, Training
from digit.run.recipes import by_recipe
from digit.training.config import OptimizerConfig, TrainConfig

RENDERER = TrainConfig(steps=250_000, batch=2048, optimizer=OptimizerConfig(lr=5e-4))
RendererRecipe = Literal["renderer_ar", "renderer_masked"]


@checked
@by_recipe("renderer")
def train_renderer(
    codes: Codes,
    out: Folder,
    *,
    recipe: RendererRecipe | None = None,
    masked: bool = False,
    flow: bool = False,
    images: Pictures | None = None,
    width: Size = 1024,
    layers: Depth = 16,
    heads: Size | None = None,
    norm: Literal["post", "pre"] = "pre",
    dropout: Decay = 0.1,
    label_dropout: Decay | None = None,
    label_smoothing: Decay = 0.1,
    patch: Size | None = None,
    wrong_codes: Decay = 0.0,
    tokenizer: Tokenizing | None = None,
    perceptual_weight: Weight = 0.05,
    teacher: Folder | None = None,
    passes: Count = 1,
    taught_guidance: FileOnly[Weight] = 2.5,
    init_from: Model | None = None,
    training: Training = RENDERER,
    held_out: Codes | None = None,
    held_out_images: Pictures | None = None,
    vqgan: Folder | None = None,
    device: Device | None = None,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train the renderer, codes -> VQ codes (stage 2 of the paper). The same command resumes a stopped run.

    With --flow it is one beyond the paper: codes -> pixels, from noise and without a VQGAN, and by class
    where the codes have labels. With --teacher too it learns to draw in few passes, guidance included, what
    that one draws in many.

    Example: digit train renderer --codes runs/codes --out runs/renderer --steps 50000 --vqgan runs/vqgan
    Example: digit train renderer --flow --codes runs/codes --images photos/ --out runs/flow

    Args:
        codes: folder of `digit tokenize` with both kinds of code; a flow renderer needs no VQ codes.
        out: the run's folder: artifact, log.jsonl, loss.png, samples/, state/.
        recipe: a published run, whose settings then are the defaults (`digit train --help` lists them all).
        masked: fill masks in a few steps (MaskGIT) instead of one code after another.
        flow: draw pixels instead of VQ codes; other settings then have defaults made for 32 px.
        images: of a flow renderer: the pictures that the codes were made of.
        width: channels.
        layers: transformer blocks.
        heads: attention heads; one per 64 channels if left out.
        norm: pre as in the paper, or post.
        dropout: share of values dropped.
        label_dropout: tell the renderer the class of each picture but for this share; above 0 it also draws
            without a class, and guided. Left out, it is told none, as the paper's; a flow renderer 0.1.
        label_smoothing: of the cross-entropy.
        patch: side in pixels of what a position of a flow renderer draws; one for each code if left out.
        wrong_codes: replace a share of the codes read, 0 to this, by near ones in half of the pictures: as a
            prior errs.
        tokenizer: what made the codes, a folder or module:object of your own: it says what is near for
            --wrong-codes, and a folder's encoder compares what a flow renderer draws with pictures.
        perceptual_weight: of that comparison.
        teacher: a flow renderer, whose shape and first weights another one takes that learns from it.
        passes: of that one per picture; 1 to 4 are meant.
        taught_guidance: the largest guidance that it draws with, at no cost.
        init_from: weights to start from, whose shape is the default: a run or model, here, bundled or on the
            hub, made on codes of the same tokenizer and VQGAN. Not used where the run goes on.
        training: steps, batch, learning rate and the rest of the loop.
        held_out: codes of unseen pictures, for the held-out loss.
        held_out_images: of a flow renderer: the pictures of `held_out`, of which 2,048 are read.
        vqgan: artifact, for sample pictures while training (its reconstructions above, renderings below).
        device: cpu, cuda, cuda:N or mps; an NVIDIA GPU if there is one.
        plan: what --dry-run estimates.
    """
    given = dict(locals())
    from digit.data.codes import CodeData, open_codes
    from digit.data.identity import of_codes, of_folder
    from digit.renderer import Renderer, RendererConfig
    from digit.renderer_masked import MaskedConfig, MaskedRenderer
    from digit.run import stages
    from digit.run.class_names import check_classes, classes_told
    from digit.run.device import choose_device
    from digit.run.dry_run import code_batch, describe_codes, dry_run
    from digit.run.flow import Taught, train_flow
    from digit.run.start import started
    from digit.run.wrong_codes import wrong_codes_of
    from digit.weights.artifact import save
    from digit.weights.storage import to_dict

    where, opened, names = choose_device(device), open_codes(codes), ("codes", "vq_codes")
    opened.check_square(*(names[:1] if flow else names))
    wrong = wrong_codes_of(opened, tokenizer, wrong_codes)
    if flow:
        if masked:
            raise DigitError("--flow and --masked exclude each other: give one of them")
        shape = {"width": width, "layers": layers, "heads": heads, "patch": patch}
        shape["label_dropout"] = label_dropout
        how: Any = {"images": images, "held_out": held_out, "held_out_images": held_out_images}
        how |= {"wrong": wrong, "tokenizer": tokenizer, "perceptual_weight": perceptual_weight}
        how["init_from"] = init_from
        how["taught"] = None if teacher is None else Taught(teacher, passes, taught_guidance)
        return train_flow(opened, out, shape, training, where, plan, given, **how)
    classes = classes_told(opened, label_dropout)
    config: Any = (MaskedConfig if masked else RendererConfig)(
        codes=opened.vocabulary("codes"),
        length=opened.length("codes"),
        vq_codes=opened.vocabulary("vq_codes"),
        vq_length=opened.length("vq_codes"),
        classes=len(classes),
        width=width,
        layers=layers,
        heads=heads or max(1, width // 64),
        norm=norm,
        dropout=dropout,
        label_dropout=label_dropout or 0.0,
        label_smoothing=label_smoothing,
    )
    stage = stages.build(lambda: MaskedRenderer(config) if masked else Renderer(config), training, plan)
    lineage = opened.lineage(*names)
    start = started(stage, out, init_from, classes=classes, lineage=lineage)
    picture = stages.renderer_pictures(opened, vqgan, lineage, where)
    known: dict[str, Any] = {"classes": classes, "unlabelled": config.label_dropout > 0}
    evaluate = stages.held_out_loss(held_out, names, lineage, where, training, **known)
    if classes:
        check_classes(out, "renderer_masked" if masked else "renderer", classes)
    made_of: dict[str, Any] = {"codes": of_codes(opened, *names, labels=bool(classes))}
    made_of |= {"masked": masked, "flow": False, "wrong_codes": wrong_codes}
    made_of |= {"model": to_dict(config), "held_out": of_folder(held_out), **start}
    found = stages.claimed(out, "train renderer", **made_of)
    if plan.dry_run:
        batch = code_batch(config.length, vq_length=config.vq_length)
        return dry_run(stage, batch, training, out, plan, model=config, inputs=describe_codes(opened))
    how = {"batch_size": training.batch, "seed": training.seed, "device": where}
    data = partial(CodeData, opened, arrays=names, wrong=wrong, **how)

    def keep(trained: Any, to: Path, extra: Mapping[str, Any] = {}) -> None:
        more = {"wrong_codes": wrong_codes} if wrong_codes else {}
        save(trained, to, lineage=lineage | start, classes=opened.classes, extra={**more, **extra})

    return stages.run_stage(stage, data, training, found, given, where, evaluate, picture, keep, "renderer")

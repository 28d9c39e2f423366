"""`digit train vqgan|prior|renderer|probe`: data, a stage, the one loop; the run's folder is the artifact.

What the stages are built of, measured by and shown with is in digit.run.stages.
"""

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from digit.bounds import Count, Decay, Depth, Positive, Size, Weight
from digit.calls import checked, taken
from digit.errors import DigitError
from digit.run.dry_run import DryRun
from digit.run.options import Codes, Device, File, FileOnly, Folder, Losses, Model, Pictures, Shape, Training
from digit.run.recipes import IDENTITY, PROBE, RECIPES, by_recipe
from digit.training.config import OptimizerConfig, TrainConfig
from digit.vqgan_config import VQGANConfig, VQGANLossConfig

PRIOR = TrainConfig(steps=125_000, batch=2048, optimizer=OptimizerConfig())
RENDERER = TrainConfig(steps=250_000, batch=2048, optimizer=OptimizerConfig(lr=5e-4))
VQGAN_TRAINING = TrainConfig(
    steps=100_000,
    batch=256,
    clip=1.0,
    ema=0.999,
    optimizer=OptimizerConfig(lr=2e-4, betas=(0.5, 0.99), weight_decay=0.0, schedule="cosine", warmup=1000),
)

PriorRecipe = Literal[
    "base", "base_400", "base_cond", "base_cond_400", "large", "large_cond", "vq_only", "ablation_39m"
]
RendererRecipe = Literal["renderer_ar", "renderer_masked"]


@checked
@by_recipe("vqgan")
def train_vqgan(
    images: Pictures,
    out: Folder,
    *,
    model: Shape = VQGANConfig(),  # noqa: B008  (frozen)
    losses: Losses = VQGANLossConfig(),  # noqa: B008
    training: Training = VQGAN_TRAINING,
    init_from: Model | None = None,
    perceptual_weights: File | None = None,
    under: str | None = None,
    held_out: Pictures | None = None,
    held_out_under: str | None = None,
    crop: bool = False,
    threads: Depth | None = None,
    device: Device | None = None,
    strict: bool = False,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train the reconstructive tokenizer, pixels <-> VQ codes. The same command resumes an interrupted run.

    Example: digit train vqgan --images photos/ --out runs/vqgan --image-size 256 --perceptual vgg16

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        out: the run's folder: artifact, log.jsonl, loss.png, samples/ (reconstructions below), state/.
        model: shape of the encoder and decoder; the official topology unless told otherwise.
        losses: weights of the reconstruction, perceptual and adversarial parts.
        training: steps, batch, learning rate and the rest of the loop.
        init_from: weights to start from, whose shape is the default: a run or model, here, bundled or on the
            hub. Not used where the run goes on.
        perceptual_weights: local safetensors of the perceptual network; else timm fetches the published ones.
        under: only pictures below this folder of `images`, such as `train`.
        held_out: unseen pictures (2,048 of them) for the reconstruction error; `images` if left out.
        held_out_under: only pictures below this folder of `held_out`.
        crop: train on random crops of slightly enlarged pictures, for sets with room around the object.
        threads: that decode pictures.
        device: cpu, cuda, cuda:N or mps; an NVIDIA GPU if there is one.
        strict: stop at the first picture that is broken or lacks a class, instead of leaving it out.
        plan: what --dry-run estimates.
    """
    given = dict(locals())
    import torch

    from digit.data.identity import of_images
    from digit.evaluation.networks import weights_sha256
    from digit.files import check_writable
    from digit.nn.batch import PixelBatch
    from digit.run import stages
    from digit.run.device import choose_device
    from digit.run.dry_run import dry_run
    from digit.run.pictures import open_told
    from digit.run.start import started
    from digit.vqgan import VQGAN
    from digit.vqgan_loss import VQGANLoss
    from digit.weights.artifact import save
    from digit.weights.storage import to_dict

    where, out = choose_device(device), Path(out)
    check_writable(out)  # before all pictures are read for what they are
    source = open_told(images, under=under, strict=strict)
    unseen = open_told(held_out, under=held_out_under) if held_out else source
    network, size = stages.perceptual(losses, perceptual_weights, plan), model.image_size
    make = lambda: VQGANLoss(VQGAN(model), losses, network)  # noqa: E731  (reads maps of the network)
    stage = stages.build(make, training, plan, sized=lambda: VQGAN(model))
    if start := started(stage.vqgan, out, init_from, classes=(), lineage={}):
        stage.keep_codebook()
    made_of: dict[str, Any] = {"model": to_dict(model), "crop": crop, "losses": to_dict(losses), **start}
    made_of["perceptual"] = {"size": losses.perceptual_size, "maps": losses.perceptual_maps}
    if not plan.dry_run:  # its networks have no weights, and it reads no pictures
        made_of["images"] = of_images(source)
        made_of["held_out"] = of_images(unseen)["content"] if held_out else None
        made_of["perceptual"]["weights"] = None if network is None else weights_sha256(network)
    found = stages.claimed(out, "train vqgan", **made_of)
    if plan.dry_run:
        stage.assume(losses.adversarial_start + losses.adversarial_ramp)  # the discriminators teach
        inputs = {"path": images, "pictures": len(source), "held_out_pictures": len(unseen)}
        inputs |= {"classes": len(source.classes), "read_as": source.read_as}
        batch = PixelBatch(torch.empty(2, 3, size, size, device="meta"), None)
        told: Any = {"model": model, "inputs": inputs, "speed_is_known": False}
        return dry_run(stage, batch, training, out, plan, **told)
    how = {"crop": crop, "threads": threads, "strict": strict}
    data = partial(stages.training_pixels, source, out, size, training, where, **how)
    done = stages.is_finished(out, training)
    pixels = torch.empty(0) if done else stages.held_out_pixels(unseen, size, threads)
    evaluate, picture = stages.reconstruction_error(pixels, where), stages.reconstructions(pixels, where)
    more = {"source": source.fingerprint, "read_as": source.summary, "losses": losses.__dict__}

    def keep(trained: VQGANLoss, to: Path) -> None:
        save(trained.vqgan, to, lineage=start, extra=more)

    record = stages.run_stage(stage, data, training, found, given, where, evaluate, picture, keep, "vqgan")
    return {**record, "inputs": source.counts()}


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
    tokenizer: Folder | None = None,
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
        tokenizer: artifact that made the codes: it says what is near for --wrong-codes, and its encoder
            compares what a flow renderer draws with pictures.
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


@checked
@by_recipe("probe")
def train_probe(
    prior: Folder,
    codes: Codes,
    out: Folder,
    *,
    recipe: Literal["linear_probe"] | None = None,
    held_out: Codes | None = None,
    last_block: bool = True,
    lr_factors: tuple[Positive, ...] = (1.0,),
    start: FileOnly[Weight] = 0.01,
    training: Training = PROBE,
    device: Device | None = None,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train linear heads on a frozen prior's states, one for each layer (DiGIT, section 4.2, figure 3b).

    Each head reads the mean over the start and all codes of what one block reads, without any norm; the prior
    is given no label. The same command resumes an interrupted run.

    Example: digit train probe --prior runs/prior --codes runs/codes --held-out runs/val --out runs/probe

    Args:
        prior: artifact of the prior, which stays as it is.
        codes: folder of `digit tokenize` with labels, made by the tokenizer of the prior.
        out: the run's folder: artifact of kind probe, log.jsonl, loss.png, state/.
        recipe: a published run, whose settings then are the defaults (`digit train --help` lists them all).
        held_out: codes of the validation pictures, for the top-1 of each layer.
        last_block: read the last block's output too, which the reference never does.
        lr_factors: a head for each, with this multiple of the learning rate; the best is reported.
        start: standard deviation of the heads' weights before training.
        training: steps, batch, learning rate and the rest of the loop.
        device: cpu, cuda, cuda:N or mps; an NVIDIA GPU if there is one.
        plan: what --dry-run estimates.
    """
    given = dict(locals())
    from digit.data.codes import open_codes
    from digit.data.identity import of_codes, of_folder
    from digit.nn.linear_probe import Probe, ProbeConfig
    from digit.run import stages
    from digit.run.class_names import check_classes
    from digit.run.device import choose_device
    from digit.run.dry_run import code_batch, describe_codes, dry_run
    from digit.weights.artifact import save
    from digit.weights.storage import to_dict

    where, opened = choose_device(device), open_codes(codes)
    states = stages.FrozenStates(prior, last_block, training, where)
    states.check(opened)
    shape = ProbeConfig(
        states.width, len(opened.classes), layers=states.layers, learning_rates=lr_factors, start=start
    )
    stage = stages.build(lambda: Probe(shape), training, plan)
    evaluate = stages.top_1(held_out, opened, states)
    check_classes(out, "probe", opened.classes)
    made_of: dict[str, Any] = {"prior": states.identity, "model": to_dict(shape)}
    made_of |= {"codes": of_codes(opened, states.over, labels=True), "held_out": of_folder(held_out)}
    found = stages.claimed(out, "train probe", **made_of)
    if plan.dry_run:
        inputs = describe_codes(opened) | {"prior": prior}
        batch, whole = code_batch(states.prior.config.length), states.with_probe(stage)
        return dry_run(stage, batch, training, out, plan, model=shape, inputs=inputs, counted_as=whole)
    data = partial(states.data, opened, training)

    def keep(trained: Probe, to: Path) -> None:
        save(trained, to, lineage={"prior": states.identity}, classes=opened.classes)

    return stages.run_stage(stage, data, training, found, given, where, evaluate, None, keep, "linear probe")


@checked
def train_recipe(name: str, *, codes: str | Path, out: str | Path, **changes: Any) -> dict[str, Any]:
    """Run a recipe with changes to any of its settings: what `digit train STAGE --recipe NAME` does.

    Args:
        name: base, base_cond, large, renderer_ar, ...: one of digit.run.recipes.RECIPES.
        codes: folder of `digit tokenize`.
        out: the run's folder; the same call resumes a stopped run.
        changes: fields of TrainConfig (steps=10), of its OptimizerConfig (lr=1e-3), of DryRun (dry_run=True),
            or arguments of the function that trains the stage (width=64, held_out, device, prior, ...).

    Raises:
        DigitError: no such recipe or setting, a conditional recipe on codes without labels, and whatever the
            training itself refuses.
    """
    if name not in RECIPES:
        raise DigitError(f"there is no recipe {name!r}: choose from {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    train = {"prior": train_prior, "renderer": train_renderer, "probe": train_probe}[recipe.stage]

    def of(kind: type) -> dict[str, Any]:
        return {field.name: changes.pop(field.name) for field in fields(kind) if field.name in changes}

    training = taken("training", changes.pop("training", recipe.training), TrainConfig)
    training = replace(training, **of(TrainConfig))
    training = replace(training, optimizer=replace(training.optimizer, **of(OptimizerConfig)))
    if plan := of(DryRun):
        changes["plan"] = DryRun(**plan)
    signature = inspect.signature(train).parameters
    known = [*signature, *(field.name for kind in (TrainConfig, DryRun) for field in fields(kind))]
    for change in changes:
        if change not in known or change in IDENTITY:
            close = difflib.get_close_matches(change, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise DigitError(f"recipe {name} has no setting {change}: {hint}")
    for option, parameter in signature.items():
        if parameter.default is parameter.empty and option not in {*changes, "codes", "out"}:
            raise DigitError(f"recipe {name} needs {option}: give {option}=...")
    return train(codes=Path(codes), out=Path(out), recipe=name, training=training, **changes)

"""A function per published run: the stage, its shape and its training, with the command, cost and figures.

Facts are those of the authors' configuration files (DiGIT cd6d8ca on fairseq 0.12.2); what they leave unsaid
is marked "not published". What differs here, on purpose: codes come from the disk instead of from pictures in
every step; bf16 instead of float16 with loss scaling; a model has no rows for symbols that are never read or
drawn (see tests/run/test_recipes.py for the exact difference). Batches are global: the mean gradient over
them does not depend on the number of GPUs.

GPU-hours are those of one H200, from the speed of one micro-batch at full size (bench/recipes.py, its figures
in bench/results/recipes.json); no published run was repeated in full.

FID and IS are on 50,000 ImageNet pictures of 256 x 256 against its validation set, with an autoregressive
renderer where none is named. Every field can be changed: `digit train base --help`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from digit.nn.linear_probe import ProbeConfig
from digit.prior import PriorConfig
from digit.renderer import RendererConfig
from digit.renderer_masked import MaskedConfig
from digit.training.config import OptimizerConfig, TrainConfig

IMAGES = 1_281_167  # of ImageNet's training set
CLASSES = 1000

# Not published: whether the runs had apex's Adam or fairseq's own, which differ in where eps enters. Ours is
# apex's, which is torch's; OptimizerConfig(epsilon="reference") is fairseq's. Every tensor decays.
ADAM = OptimizerConfig(
    kind="adamw",
    lr=3e-4,
    betas=(0.9, 0.98),
    eps=1e-8,
    weight_decay=0.01,
    decay_all=True,
    schedule="inverse_sqrt",
    warmup=6250,
    warmup_from=1e-7,
)
STAGE_1 = TrainConfig(steps=125_000, batch=2048, micro_batch=256, optimizer=ADAM, clip=1.0, seed=1)
STAGE_2 = replace(STAGE_1, micro_batch=128, optimizer=replace(ADAM, lr=5e-4))


@dataclass(frozen=True)
class Recipe:
    """One published run. Vocabulary, length and classes of `model` give way to those of the codes at hand."""

    stage: Literal["prior", "renderer", "renderer_masked", "probe"]
    model: PriorConfig | RendererConfig | MaskedConfig | ProbeConfig
    training: TrainConfig  # batch is global, micro_batch is of one GPU
    over: Literal["codes", "vq_codes"] = "codes"  # what a prior is trained on


def base() -> Recipe:
    """The unconditional base prior, 219M, 200 epochs (stage1/dino_base.yaml).

    digit train base --codes CODES --out RUN [--held-out VALIDATION_CODES] [--compile]

    GPU-hours: 54 with --compile, 68 without. Published: FID 9.66, IS 69.15 (figure 3a); with the masked
    renderer FID 9.04, IS 75.04 (table 3). Sampled at temperature 1 with top-k 200.
    """
    return Recipe("prior", PriorConfig(codes=8192, length=256, width=1024, layers=16, heads=16), STAGE_1)


def base_400() -> Recipe:
    """The unconditional base prior, 219M, 400 epochs.

    digit train base_400 --codes CODES --out RUN

    GPU-hours: 107 with --compile, 136 without. Published: FID 9.13, IS 73.85 (table 3). Its settings are not
    published: those of 200 epochs with twice the updates.
    """
    return replace(base(), training=replace(STAGE_1, steps=250_000))


def base_cond() -> Recipe:
    """The class-conditional base prior, 219M (220M with the classes), 200 epochs (dino_base_classcond.yaml).

    digit train base_cond --codes CODES --out RUN

    GPU-hours: 54 with --compile, 68 without. Published: FID 4.79, IS 142.87 (table 4, which says 200 epochs;
    the authors' README says 400); with the masked renderer FID 4.62, IS 146.19. No guidance; top-k 300.
    """
    return replace(base(), model=replace(base().model, classes=CLASSES))


def base_cond_400() -> Recipe:
    """The class-conditional base prior, 400 epochs.

    digit train base_cond_400 --codes CODES --out RUN

    GPU-hours: 107 with --compile, 136 without. Published: weights, and FID 4.79, IS 142.87 if the authors'
    README is right about the epochs (table 4 says 200). Its settings are not published: those of 200 epochs
    with twice the updates.
    """
    return replace(base_cond(), training=replace(STAGE_1, steps=250_000))


def large() -> Recipe:
    """The unconditional large prior, 731M, 200 epochs, K = 16,000 on DINOv2 ViT-L/14.

    digit train large --codes CODES --out RUN

    GPU-hours: 164 with --compile, 187 without. Published: FID 4.59, IS 141.29 (table 3), top-k 400.
    Layers, width and K are those of the released weights. Not published: the heads (16 or 24; 24 gives each
    64 channels, as in base), learning rate, batch and dropout (those of base). Its renderer's size is not
    published either: `digit train renderer_ar` takes K from the codes; --width 1536 --layers 24 --heads 24
    makes it as large as this prior.
    """
    shape = PriorConfig(
        codes=16_000,
        length=256,
        width=1536,
        layers=24,
        heads=24,  # not published: 16 or 24
        dropout=0.1,  # not published
    )
    return Recipe("prior", shape, STAGE_1)  # learning rate and batch: not published


def large_cond() -> Recipe:
    """The class-conditional large prior, 732M, 200 epochs.

    digit train large_cond --codes CODES --out RUN

    GPU-hours: 188 without --compile. Published: FID 3.39, IS 205.96 (table 4). What is not published
    is chosen as for `large`.
    """
    return replace(large(), model=replace(large().model, classes=CLASSES))


def renderer_ar() -> Recipe:
    """The autoregressive renderer, 214M, 400 epochs (stage2/dino_base.yaml at a global batch of 2048).

    digit train renderer_ar --codes CODES --out RUN

    GPU-hours: 213 with --compile, 265 without. Published: with the priors above, such as FID 9.13 after
    base_400 (table 3); on the codes of the validation pictures themselves FID 1.92, IS 184.40. Top-p 0.8.
    """
    shape = RendererConfig(
        codes=8192, length=256, vq_codes=1024, vq_length=256, width=1024, layers=16, heads=16
    )
    return Recipe("renderer", shape, replace(STAGE_2, steps=250_000))


def renderer_masked() -> Recipe:
    """The masked renderer (MaskGIT), 214M, 200 epochs (stage2/dino_base_nar.yaml).

    digit train renderer_masked --codes CODES --out RUN

    GPU-hours: 114 with --compile, 138 without. Published: FID 9.04, IS 75.04 after base (table 3), FID 4.62,
    IS 146.19 after base_cond (table 4), in 8 steps. Its loss is the mean over the masks of one micro-batch.
    """
    shape = MaskedConfig(
        codes=8192, length=256, vq_codes=1024, vq_length=256, width=1024, layers=16, heads=16
    )
    return Recipe("renderer_masked", shape, STAGE_2)


def vq_only() -> Recipe:
    """The baseline: the base prior on VQ codes, 205M, 200 epochs (stage2/vq_base.yaml), pre-norm.

    digit train vq_only --codes CODES --out RUN

    GPU-hours: 52 with --compile, 65 without. Published: FID 24.38, IS 30.93 (table 3, which says 214M). The
    authors' script draws without top-k or top-p, probably by mistake (--sampling-topp 300).
    """
    shape = PriorConfig(codes=1024, length=256, width=1024, layers=16, heads=16, norm="pre")
    return Recipe("prior", shape, replace(STAGE_2, micro_batch=256), over="vq_codes")


def linear_probe() -> Recipe:
    """Linear heads on a frozen base prior, 80 epochs (stage1/dino_base_linearprobe_sgd.yaml, batch 4 x 256).

    digit train linear_probe --prior PRIOR --codes CODES --held-out VALIDATION_CODES --out RUN

    GPU-hours: 8. Published: top-1 71.7 % on base, 80.3 % on large (table 2);
    which layer gives it is not published (figure 3b shows all). The reference has a head for the input of
    each block, and so never reads the last block's output; ours reads that too (--no-last-block: not).
    It trains on random resized crops, here the views that `digit tokenize` was told to store, and validates
    on crops of 224 pixels out of 256 that the encoder reads without resizing.
    """
    sgd = OptimizerConfig(
        kind="sgd", lr=0.4, betas=(0.9, 0.0), nesterov=False, weight_decay=0.0, schedule="cosine", warmup=0
    )
    training = TrainConfig(steps=100_000, batch=1024, micro_batch=256, optimizer=sgd, clip=None, seed=1)
    shape = ProbeConfig(width=1024, classes=CLASSES, layers=17, learning_rates=(1.0,), start=0.01)
    return Recipe("probe", shape, training)


def ablation_39m() -> Recipe:
    """The small prior of the comparison of encoders, 39M, 100 epochs, unconditional.

    digit train ablation_39m --codes CODES --out RUN

    GPU-hours: 7 with --compile, 10 without. Published (figure 4a and its table), FID / IS / top-1 of the
    prior: MAE 45.51 / 18.39 / 31.40, MoCo v3 20.38 / 45.02 / 59.22, iBOT 16.81 / 57.88 / 61.10.
    Not published: shape, K and learning rate. Of the plain shapes near 39M, width 384 with 18 layers (38.6M)
    is nearer than width 512 with 9 (37.3M) or 10 (40.4M). These encoders' patches, 16 pixels wide, give 196
    codes a picture.
    """
    shape = PriorConfig(codes=8192, length=196, width=384, layers=18, heads=6)  # 64 channels a head
    return Recipe("prior", shape, replace(STAGE_1, steps=62_500))


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        *(base, base_400, base_cond, base_cond_400, large, large_cond),
        *(renderer_ar, renderer_masked, vq_only, linear_probe, ablation_39m),
    )
}

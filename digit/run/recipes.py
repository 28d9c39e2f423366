"""The published runs as data: the verb that trains each, its settings, cost and figures; without torch.

Facts are those of the authors' configuration files (DiGIT cd6d8ca on fairseq 0.12.2); what they leave unsaid
is marked "not published". What differs here, on purpose: codes come from the disk instead of from pictures in
every update; bf16 instead of float16 with loss scaling; a model has no rows for symbols that are never read
or drawn (see tests/run/test_recipes.py for the exact difference). Batches are global: the mean gradient over
them does not depend on the number of GPUs.

GPU-hours are those of one H200, from the speed of one micro-batch at full size (bench/recipes.py, its figures
in bench/results/recipes.json); no published run was repeated in full.

FID and IS are on 50,000 ImageNet pictures of 256 x 256 against its validation set, with an autoregressive
renderer where none is named.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from digit.errors import DigitError
from digit.training.config import OptimizerConfig, TrainConfig

Stage = Literal["prior", "renderer", "probe", "vqgan"]
P = ParamSpec("P")
R = TypeVar("R")

IMAGES = 1_281_167  # of ImageNet's training set
CLASSES = 1000
SHAPE = {  # options that are settings of the model, and so the weights' that a training starts from
    *("width", "layers", "heads", "norm", "tied", "patch", "dropout", "label_dropout", "label_smoothing")
}
IDENTITY = ("over", "conditional", "masked", "flow")  # options that make a recipe what it is

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
# stage1/dino_base_linearprobe_sgd.yaml, a batch of 4 x 256
PROBE = TrainConfig(
    steps=100_000,
    batch=1024,
    micro_batch=256,
    optimizer=OptimizerConfig(
        kind="sgd", lr=0.4, betas=(0.9, 0.0), nesterov=False, weight_decay=0.0, schedule="cosine", warmup=0
    ),
    clip=None,
    seed=1,
)


@dataclass(frozen=True)
class Recipe:
    """One published run."""

    stage: Stage  # trained by `digit train STAGE`
    title: str
    options: Mapping[str, Any]  # of that verb, besides the training
    training: TrainConfig  # batch is global, micro_batch is of one GPU
    parameters: str
    hours: tuple[int | None, int | None]  # on one H200: compiled, and not; None where not measured
    published: str
    note: str = ""
    codes: Mapping[str, int] = field(default_factory=lambda: {"codes": 8192, "length": 256})  # that it read

    @property
    def model(self) -> Any:
        """The stage's config for the published codes; a run of one's own takes K and so on from its codes."""
        from digit.nn.linear_probe import ProbeConfig
        from digit.prior import PriorConfig
        from digit.renderer import RendererConfig
        from digit.renderer_masked import MaskedConfig

        shape = {name: value for name, value in self.options.items() if name not in IDENTITY}
        if self.stage == "prior":
            classes = CLASSES if self.options["conditional"] else 0
            return PriorConfig(**self.codes, classes=classes, **shape)
        if self.stage == "renderer":
            kind = MaskedConfig if self.options["masked"] else RendererConfig
            return kind(**self.codes, vq_codes=1024, vq_length=256, **shape)
        return ProbeConfig(width=1024, classes=CLASSES, layers=17, learning_rates=(1.0,), start=0.01)


PRIOR = {
    **{"over": "codes", "conditional": False, "width": 1024, "layers": 16, "heads": 16, "norm": "post"},
    **{"dropout": 0.1, "label_dropout": 0.0, "label_smoothing": 0.1, "tied": False},
}
RENDERER = {
    **{"masked": False, "flow": False, "width": 1024, "layers": 16, "heads": 16, "norm": "pre"},
    **{"dropout": 0.1, "label_smoothing": 0.1},
}
# Beyond the paper, and no recipe: what `train renderer --flow` takes unless told otherwise, made for 32 px.
FLOW = {
    **{"width": 256, "layers": 8},
    "training": TrainConfig(
        steps=50_000,
        batch=512,
        ema=0.999,
        optimizer=OptimizerConfig(
            lr=4e-4, betas=(0.9, 0.95), weight_decay=0.02, schedule="trapezoid", warmup=500
        ),
    ),
}

BASE = Recipe(
    stage="prior",
    title="the unconditional base prior, 200 epochs (stage1/dino_base.yaml)",
    options=PRIOR,
    training=STAGE_1,
    parameters="219M",
    hours=(54, 68),
    published="FID 9.66, IS 69.15 (figure 3a)",
    note="With the masked renderer FID 9.04, IS 75.04 (table 3). Sampled at temperature 1 with top-k 200.",
)
COND = replace(
    BASE,
    title="the class-conditional base prior, 200 epochs (dino_base_classcond.yaml)",
    options=PRIOR | {"conditional": True},
    parameters="220M",
    published="FID 4.79, IS 142.87 (table 4)",
    note="Table 4 says 200 epochs, the authors' README 400. With the masked renderer FID 4.62, IS 146.19. No "
    "guidance; top-k 300.",
)
LARGE = Recipe(
    stage="prior",
    title="the unconditional large prior, 200 epochs, K = 16,000 on DINOv2 ViT-L/14",
    options=PRIOR | {"width": 1536, "layers": 24, "heads": 24},  # heads, dropout: not published
    training=STAGE_1,  # learning rate and batch: not published
    parameters="731M",
    hours=(164, 187),
    published="FID 4.59, IS 141.29 (table 3)",
    note="Top-k 400. Layers, width and K are those of the released weights. Not published: the heads (16 or "
    "24; 24 gives each 64 channels, as in base), learning rate, batch and dropout (those of base). Its "
    "renderer's size is not published either: --recipe renderer_ar takes K from the codes; --width 1536 "
    "--layers 24 --heads 24 makes it as large as this prior.",
    codes={"codes": 16_000, "length": 256},
)

RECIPES: dict[str, Recipe] = {
    "base": BASE,
    "base_400": replace(
        BASE,
        title="the unconditional base prior, 400 epochs",
        training=replace(STAGE_1, steps=250_000),
        hours=(107, 136),
        published="FID 9.13, IS 73.85 (table 3)",
        note="Its settings are not published: those of 200 epochs with twice the updates.",
    ),
    "base_cond": COND,
    "base_cond_400": replace(
        COND,
        title="the class-conditional base prior, 400 epochs",
        training=replace(STAGE_1, steps=250_000),
        hours=(107, 136),
        published="weights, FID as base_cond",
        note="FID 4.79, IS 142.87 if the authors' README is right about the epochs (table 4 says 200). Its "
        "settings are not published: those of 200 epochs with twice the updates.",
    ),
    "large": LARGE,
    "large_cond": replace(
        LARGE,
        title="the class-conditional large prior, 200 epochs",
        options={**LARGE.options, "conditional": True},
        parameters="732M",
        hours=(None, 188),
        published="FID 3.39, IS 205.96 (table 4)",
        note="What is not published is chosen as for large.",
    ),
    "vq_only": Recipe(
        stage="prior",
        title="the baseline: the base prior on VQ codes, 200 epochs (stage2/vq_base.yaml), pre-norm",
        options=PRIOR | {"over": "vq_codes", "norm": "pre"},
        training=replace(STAGE_2, micro_batch=256),
        parameters="205M",
        hours=(52, 65),
        published="FID 24.38, IS 30.93 (table 3)",
        note="Table 3 says 214M. The authors' script draws without top-k or top-p, probably by mistake "
        "(--sampling-topp 300).",
        codes={"codes": 1024, "length": 256},
    ),
    "ablation_39m": Recipe(
        stage="prior",
        title="the small prior of the comparison of encoders, 100 epochs, unconditional",
        options=PRIOR | {"width": 384, "layers": 18, "heads": 6},  # 64 channels per head
        training=replace(STAGE_1, steps=62_500),
        parameters="38M",
        hours=(7, 10),
        published="FID 16.81, iBOT (figure 4a)",
        note="FID / IS / top-1 of the prior: MAE 45.51 / 18.39 / 31.40, MoCo v3 20.38 / 45.02 / 59.22, iBOT "
        "16.81 / 57.88 / 61.10. Not published: shape, K and learning rate. Of the plain shapes near 39M, "
        "width 384 with 18 layers (38.6M) is nearer than width 512 with 9 (37.3M) or 10 (40.4M). "
        "These encoders' patches, 16 pixels wide, give 196 codes per picture.",
        codes={"codes": 8192, "length": 196},
    ),
    "renderer_ar": Recipe(
        stage="renderer",
        title="the autoregressive renderer, 400 epochs (stage2/dino_base.yaml at a global batch of 2048)",
        options=RENDERER,
        training=replace(STAGE_2, steps=250_000),
        parameters="214M",
        hours=(213, 265),
        published="with the priors above",
        note="Such as FID 9.13 after base_400 (table 3); on the codes of the validation pictures themselves "
        "FID 1.92, IS 184.40. Top-p 0.8.",
    ),
    "renderer_masked": Recipe(
        stage="renderer",
        title="the masked renderer (MaskGIT), 200 epochs (stage2/dino_base_nar.yaml)",
        options=RENDERER | {"masked": True},
        training=STAGE_2,
        parameters="214M",
        hours=(114, 138),
        published="FID 9.04 on base",
        note="FID 9.04, IS 75.04 after base (table 3), FID 4.62, IS 146.19 after base_cond (table 4), in 8 "
        "steps. Its loss is the mean over the masks of one micro-batch.",
    ),
    "linear_probe": Recipe(
        stage="probe",
        title="linear heads on a frozen base prior, 80 epochs",
        options={"lr_factors": (1.0,), "start": 0.01, "last_block": True},
        training=PROBE,
        parameters="17M",
        hours=(8, 8),
        published="top-1 71.7 % on base (table 2)",
        note="On large 80.3 %. Which layer gives it is not published (figure 3b shows all). The reference "
        "has a head for the input of each block, and never reads the last block's output; ours does too "
        "(--no-last-block: not). It trains on random resized crops, here the views that `digit tokenize` was "
        "told to store, and validates on crops of 224 pixels out of 256 that the encoder reads without "
        "resizing.",
    ),
}


def defaults_of(
    name: str | None,
    stage: str,
    *,
    flow: bool = False,
    masked: bool = False,
    init_from: str | Path | None = None,
) -> dict[str, Any]:
    """The arguments that a recipe gives the function that trains `stage`; without one `FLOW` if `flow`.

    Settings of the model are those of the weights that `init_from` names, if any.

    Raises:
        DigitError: there is no such recipe of this stage, or there are no such weights of it.
    """
    defaults: dict[str, Any] = dict(FLOW) if flow else {}
    if name is not None:
        recipe = RECIPES.get(name)
        if recipe is None or recipe.stage != stage:
            known = [name for name, recipe in RECIPES.items() if recipe.stage == stage]
            raise DigitError(
                f"--recipe: there is no recipe {name!r} of a {stage}: choose from {', '.join(known)}"
            )
        defaults = {"recipe": name, **recipe.options, "training": recipe.training}
        masked = masked or bool(defaults.get("masked"))
    if init_from is not None:
        from digit.weights.initial import config_of

        kind = "renderer_flow" if flow else "renderer_masked" if masked else stage
        config = config_of(init_from, kind)
        if stage == "vqgan":
            return defaults | {"model": config}
        told = SHAPE if config.classes else SHAPE - {"label_dropout"}
        defaults |= {option: getattr(config, option) for option in told if hasattr(config, option)}
    return defaults


def described(name: str) -> str:
    """A recipe in two paragraphs, for the help of its verb."""
    recipe = RECIPES[name]
    compiled, eager = recipe.hours
    hours = " or ".join(
        f"{hours} {how}" for hours, how in ((compiled, "compiled"), (eager, "not compiled")) if hours
    )
    return (
        f"Recipe {name}: {recipe.title}; {recipe.parameters} parameters, GPU-hours {hours}. K, length and "
        f"classes are those of the codes; the published K is {recipe.codes['codes']:,}.\n\n"
        f"Published: {recipe.published}. {recipe.note}"
    )


def by_recipe(stage: Stage) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The function that trains `stage`, with `recipe=NAME` in place of the arguments that are left out."""

    def of(train: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(train)
        def call(*positional: P.args, **given: P.kwargs) -> R:
            name: Any = given.get("recipe")
            which: Any = {each: bool(given.get(each)) for each in ("flow", "masked")}
            which["init_from"] = given.get("init_from")
            defaults: Any = defaults_of(name, stage, **which)
            for option in IDENTITY:
                if option in given and option in defaults and given[option] != defaults[option]:
                    raise DigitError(
                        f"recipe {name} has {option}={defaults[option]}: choose another recipe, or leave "
                        f"{option} out"
                    )
            for option, value in defaults.items():
                given.setdefault(option, value)
            return train(*positional, **given)

        return call

    return of

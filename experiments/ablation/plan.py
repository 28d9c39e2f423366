"""What is compared: the tokenizers, the priors on each, and how large everything is."""

from dataclasses import dataclass
from typing import Any

from digit.errors import DigitError

# Type as in the paper's table: P patch-level, G global, D discriminative, R reconstructive.
TYPES = {
    "mae": "P+R",
    "mocov3": "G+D",
    "dino": "G+D",
    "ibot": "P+D",
    "random": "-",
    "distilled": "P+D",
    "vq": "-",
}
TITLES = {
    "mae": "MAE",
    "mocov3": "MoCo v3",
    "dino": "DINO",
    "ibot": "iBOT",
    "random": "untrained ViT",
    "distilled": "distilled ViT",
    "vq": "VQGAN",
}
# Updates of an encoder's training, in those of iBOT and DINO: an update of MoCo v3 shows no small views, one
# of MAE a quarter of a single view, and costs so much less.
UPDATES = {"mocov3": 1.5, "mae": 3.0}
OBJECTIVES = ("mae", "mocov3", "dino", "ibot")  # encoders trained here; the others need no training


@dataclass(frozen=True)
class TokenizerPlan:
    """A tokenizer: an encoder and its number of codes."""

    encoder: str  # a key of TITLES
    codes: int  # K; of the VQGAN its own

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.encoder}-{self.codes}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{TITLES[self.encoder]}, K={self.codes}"


@dataclass(frozen=True)
class PriorPlan:
    """A prior on a tokenizer's codes: its size, and the share of all steps after which it is measured."""

    tokenizer: TokenizerPlan
    size: str = "medium"
    share: float = 1.0

    @property
    def name(self) -> str:
        """Of its row."""
        return f"{self.tokenizer.name}-{self.size}" + ("" if self.share == 1 else f"-{self.share:g}")


@dataclass(frozen=True)
class Scale:
    """How large everything is; the full one is for a GPU, the other is for a test on two cores."""

    codes: tuple[int, int, int] = (256, 1024, 4096)  # K: few, usual, many
    vit: tuple[int, int] = (256, 9)  # width and depth of the encoders, heads of 64 channels
    classifier: tuple[int, int, int] = (3000, 512, 64)  # steps, batch, width
    encoder_batch: int = 512
    batch: int = 256  # of priors and renderers
    renderer: tuple[int, int] = (256, 6)  # width, layers
    per_cluster: int = 256  # feature vectors for K-means
    samples: int = 10_000
    draw: int = 2500  # pictures drawn at once
    disturbed: int = 2000  # test pictures for stability
    probe_epochs: float = 20.0
    top_p: tuple[float, ...] = (1.0, 0.9)  # each row is measured with all and shows its best
    small: tuple[int, int] = (192, 6)  # width and layers of the priors
    medium: tuple[int, int] = (320, 8)
    large: tuple[int, int] = (512, 10)


FULL = Scale()
SMOKE = Scale(
    codes=(4, 8, 16),
    vit=(64, 3),
    classifier=(2, 8, 4),
    encoder_batch=8,
    batch=8,
    renderer=(32, 1),
    per_cluster=8,
    samples=12,
    draw=12,
    disturbed=6,
    probe_epochs=1.0,
    top_p=(0.9,),
    small=(16, 1),
    medium=(32, 1),
    large=(32, 2),
)


def tokenizers(scale: Scale, main: str, vq_codes: int) -> list[TokenizerPlan]:
    """The main one first: it has the most rows."""
    if main not in TITLES or main == "vq":
        raise DigitError(f"--main {main}: choose {', '.join(name for name in TITLES if name != 'vq')}")
    few, usual, many = scale.codes
    others = [name for name in ("ibot", "dino", "mocov3", "mae", "distilled", "random") if name != main]
    of_main = [TokenizerPlan(main, codes) for codes in (usual, many, few)]
    return [
        of_main[0],
        TokenizerPlan("vq", vq_codes),
        *(TokenizerPlan(n, usual) for n in others),
        *of_main[1:],
    ]


def priors_of(tokenizer: TokenizerPlan, plans: list[TokenizerPlan]) -> list[PriorPlan]:
    """The rows of a tokenizer; the main one, first of all, also has other sizes and half the steps."""
    if tokenizer != plans[0]:
        return [PriorPlan(tokenizer)]
    return [
        PriorPlan(tokenizer, share=0.5),
        PriorPlan(tokenizer),
        PriorPlan(tokenizer, "small"),
        PriorPlan(tokenizer, "large"),
    ]


def renderer_steps(steps: int) -> int:
    """Updates of a renderer beside `steps` of a prior: one is shared by all priors of a tokenizer."""
    return round(5 / 3 * steps)


def shares(seconds: float) -> dict[str, Any]:
    """How the seconds of all devices are divided; the rest is for the classifier and starting processes."""
    return {"encoder": 0.08 * seconds, "rows": 0.5 * seconds}

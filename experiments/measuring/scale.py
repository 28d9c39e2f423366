"""How large everything is: the full run for one GPU, and a small one for a test on two cores."""

from dataclasses import dataclass, field
from typing import Any

Grid = dict[str, tuple[float, ...]]  # values by axis; every combination is a cell

FREE, CLASS = "free", "class"  # without a class, and by class
TOP_P, TOP_K = (1.0, 0.9, 0.8, 0.7), (0, 400, 100, 30)
GUIDANCE = (1.0, 1.25, 1.5, 2.0, 3.0)
# What is not named stays fixed: the model's own values would differ from one model to the next.
FIXED: Grid = {"temperature": (1.0,), "top_k": (0,), "top_p": (0.9,), "guidance": (1.0,)}


def prior_grid(**axes: tuple[float, ...]) -> Grid:
    """A grid over a prior's settings."""
    return {**FIXED, **axes}


def whole_grid(**axes: tuple[float, ...]) -> Grid:
    """A grid over the settings of a prior and of the autoregressive renderer."""
    return {**FIXED, "renderer_temperature": (1.0,), "renderer_top_k": (0,), "renderer_top_p": (0.9,), **axes}


def masked_grid(**axes: tuple[float, ...]) -> Grid:
    """A grid over the settings of a prior and of the masked renderer."""
    return {**FIXED, "renderer_temperature": (1.0,), "steps": (8,), "noise": (4.5,), **axes}


# Cells that two grids share are drawn once. The first grids of each are those the page needs most.
FULL_GRIDS: dict[tuple[str, str], tuple[Grid, ...]] = {
    ("digit", FREE): (
        whole_grid(top_p=TOP_P),
        whole_grid(top_p=TOP_P, renderer_top_p=(1.0, 0.8, 0.7, 0.5)),
        whole_grid(top_k=TOP_K, top_p=TOP_P),
        whole_grid(temperature=(0.8, 0.9, 1.1), top_p=(1.0, 0.9)),
    ),
    ("vq", FREE): (
        prior_grid(top_k=TOP_K, top_p=TOP_P),
        prior_grid(temperature=(0.8, 0.9, 1.1), top_p=(1.0, 0.9)),
    ),
    ("digit", CLASS): (
        whole_grid(guidance=GUIDANCE, top_p=TOP_P),
        whole_grid(guidance=(1.0, 1.5, 2.0), top_p=(0.9, 0.8), renderer_top_p=(0.8, 0.7)),
    ),
    ("vq", CLASS): (prior_grid(guidance=GUIDANCE, top_p=TOP_P),),
    ("vq_compute", FREE): (prior_grid(top_p=TOP_P),),
    ("vq_compute", CLASS): (prior_grid(guidance=(1.0, 1.25, 1.5, 2.0), top_p=(0.9, 0.8, 0.7)),),
    ("masked", FREE): (masked_grid(top_p=TOP_P),),
    ("masked", CLASS): (masked_grid(guidance=(1.0, 1.5, 2.0), top_p=(0.9, 0.8)),),
}


@dataclass(frozen=True)
class Scale:
    """Sizes and settings of a run."""

    classifier: tuple[str, ...] = (
        *("--width", "96", "--lr", "0.3", "--clip", "5", "--mix", "0.5", "--stored-as", "int8"),
        *("--seconds", "60"),
    )
    width: int = 320  # of the VQ-only prior, as of the bundled one
    layers: int = 8
    steps: int = 5000
    batch: int = 256  # of its training
    warmup: int = 300
    compile: bool = True
    prefixes: tuple[tuple[int, ...], ...] = ((0, 16, 32, 64), (4, 8, 24, 40, 48, 56))  # first and later
    prefix_checks: tuple[int, ...] = (0, 16, 32, 64)  # with training pictures as the source; () for none
    prefix_pictures: int = 10_000
    cell: int = 5000  # pictures of a cell of a sweep
    winner: int = 10_000  # pictures of a system's best setting, drawn again
    first_seed: int = 100_000  # of those: no seed that chose the setting
    grids: dict[tuple[str, str], tuple[Grid, ...]] = field(default_factory=lambda: FULL_GRIDS)
    probe_epochs: float = 30.0
    probe_views: int = 2
    per_class: int = 500  # test pictures of each class for the projections
    draw: int = 2500  # pictures drawn at once
    few: bool = False

    @property
    def how(self) -> dict[str, Any]:
        """What every evaluator is given."""
        return {"batch": self.draw, "few": self.few}


FULL = Scale()
SMOKE = Scale(
    classifier=("--width", "2", "--steps", "2", "--batch", "8", "--mix", "0.5", "--stored-as", "int8"),
    width=16,
    layers=1,
    steps=4,
    batch=8,
    warmup=1,
    compile=False,
    prefixes=((0, 16, 8),),
    prefix_checks=(),
    prefix_pictures=4,
    cell=4,
    winner=4,
    grids={
        ("digit", FREE): (whole_grid(top_p=(0.9, 0.8), renderer_top_p=(0.9,)),),
        ("vq", FREE): (prior_grid(top_p=(0.9, 0.8)),),
        ("digit", CLASS): (whole_grid(guidance=(1.0, 2.0)),),
        ("vq", CLASS): (prior_grid(guidance=(1.0, 2.0)),),
    },
    probe_epochs=1.0,
    probe_views=1,
    per_class=4,
    draw=20,
    few=True,
)

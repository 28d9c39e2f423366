"""The published objectives at small scale, by name: what `experiments/self_supervised.py --recipe` trains."""

from dataclasses import replace
from typing import Any

from cifar10.augment import ViewConfig
from cifar10.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from cifar10.self_supervision import SelfSupervision, SelfSupervisionConfig
from cifar10.vit import ViTConfig

# Settings of SelfSupervisionConfig. `mixed` is our own and the default; the others keep to one paper each, as
# far as its terms go: batch, learning rate and views are alike for all.
SETTINGS: dict[str, dict[str, Any]] = {
    "mixed": {},
    "mocov3": {"objective": "mocov3", "pool": "cls", "patch_weight": 0.0, "crops": 0},
    "dino": {"objective": "dino", "pool": "cls", "patch_weight": 0.0, "crops": 4},
    "ibot": {"objective": "dino", "pool": "cls", "patch_weight": 1.0, "visible_weight": 0.0, "crops": 4},
}
SMALL = SelfSupervisionConfig(steps=1).crop
RECIPES = (*SETTINGS, "mae")

Stage = SelfSupervision | MaskedAutoencoder


def stage_of(recipe: str, vit: ViTConfig, *, steps: int, **changes: Any) -> Stage:
    """The stage of a recipe, `changes` made to its settings (MAE has none of them)."""
    view = ViewConfig(size=vit.image_size)
    if recipe == "mae":
        return MaskedAutoencoder(MaskedAutoencoderConfig(vit=vit, view=view))
    settings = {"view": view, "crop": replace(SMALL, size=vit.image_size // 2), **SETTINGS[recipe], **changes}
    return SelfSupervision(SelfSupervisionConfig(steps=steps, vit=vit, **settings))

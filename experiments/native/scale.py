"""Shapes and lengths of the stability experiment: the real one, and a smoke test."""

from dataclasses import dataclass, field

from cifar10.vit import ViTConfig

from digit.vqgan_config import VQGANConfig


@dataclass(frozen=True)
class Reconstructive:
    """A VQGAN to train."""

    model: VQGANConfig
    steps: int = 30_000  # updates, at most
    perceptual: bool = True  # a network compares the pictures, and a discriminator of its maps teaches


def pyramid(*multipliers: int) -> VQGANConfig:
    """A VQGAN of equal cost at every level but the last: half the side, twice the channels."""
    return VQGANConfig(
        width=32,
        multipliers=multipliers,
        code_dim=16,
        normalized_codes=True,
        attention=True,
        shortcut="input",
    )


def vqgans() -> dict[str, Reconstructive]:
    """The paper's number of codes, the same stopped early, and four times as many codes per picture."""
    return {
        "vqgan-early": Reconstructive(pyramid(1, 2, 4, 8, 8), steps=400, perceptual=False),
        "vqgan": Reconstructive(pyramid(1, 2, 4, 8, 8)),
        "vqgan-f8": Reconstructive(pyramid(1, 2, 4, 8)),
    }


@dataclass(frozen=True)
class Scale:
    """Shapes of everything; the default is the experiment, `SMOKE` a run of seconds."""

    size: int = 256  # px of the photos
    held_out: int = 400  # photos of each set, at most
    vqgans: dict[str, Reconstructive] = field(default_factory=vqgans)
    batch: int = 24  # photos of an update of a VQGAN
    adversarial_start: int = 1500  # update
    encoder: str = "vit_small_patch14_dinov2"
    encoder_size: int = 224  # px
    arguments: dict[str, int] = field(default_factory=dict)  # timm's, besides the depth
    clusters: tuple[int, ...] = (1024, 4096, 8192)
    per_cluster: int = 128  # feature vectors kept for each
    own: ViTConfig = field(
        default_factory=lambda: ViTConfig(image_size=128, patch_size=8, width=384, depth=9, heads=6)
    )
    own_steps: int = 3000  # updates of the small encoder, at most
    own_batch: int = 128  # photos of an update


TINY = VQGANConfig(image_size=16, width=8, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4)
SMOKE = Scale(
    size=16,
    held_out=3,
    vqgans={
        "vqgan-early": Reconstructive(TINY, steps=1, perceptual=False),
        "vqgan": Reconstructive(TINY, steps=4),
    },
    batch=4,
    adversarial_start=2,
    encoder="vit_tiny_patch16_224",
    encoder_size=16,
    arguments={"patch_size": 4, "embed_dim": 32, "num_heads": 2},
    clusters=(4, 8),
    per_cluster=16,
    own=ViTConfig(image_size=16, patch_size=4, width=64, depth=3, heads=1),
    own_steps=1,
    own_batch=4,
)

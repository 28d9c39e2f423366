"""Shapes and lengths of the stability experiment: the real one, and a smoke test."""

from dataclasses import dataclass, field

from cifar10.vit import ViTConfig

from digit.vqgan import VQGANConfig


@dataclass(frozen=True)
class Scale:
    """Shapes of everything; the default is the experiment, `SMOKE` a run of seconds."""

    size: int = 256  # px of the photos
    held_out: int = 200  # photos of each set, at most
    vqgan: VQGANConfig = field(
        default_factory=lambda: VQGANConfig(
            width=64, code_dim=16, normalized_codes=True, attention=True, shortcut="input"
        )
    )
    early: int = 400  # updates of the blurry VQGAN
    steps: int = 20_000  # updates of the other, at most
    batch: int = 32  # photos of an update of a VQGAN
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


SMOKE = Scale(
    size=16,
    held_out=3,
    vqgan=VQGANConfig(image_size=16, width=8, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4),
    early=1,
    steps=2,
    batch=4,
    encoder="vit_tiny_patch16_224",
    encoder_size=16,
    arguments={"patch_size": 4, "embed_dim": 32, "num_heads": 2},
    clusters=(4, 8),
    per_cluster=16,
    own=ViTConfig(image_size=16, patch_size=4, width=64, depth=3, heads=1),
    own_steps=1,
    own_batch=4,
)

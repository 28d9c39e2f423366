"""pixels -> features: SqueezeNet 1.1 (arXiv:1602.07360), for a Fréchet distance or a perceptual loss."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SqueezeNet(nn.Module):
    """Tensor names, shapes and pooling of torchvision's `squeezenet1_1`; trained at 224 px."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            _pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            _pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            _pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, classes, 1), nn.ReLU())

    def forward(self, standardised: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        """Logits, never negative, of pixels standardised by ImageNet's mean and deviation."""
        return self.pooled(standardised)[1]

    def pooled(
        self, standardised: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b c"]]:
        """The last feature map's mean over positions (512) and the logits, from one pass."""
        maps = self.features(standardised)
        return maps.mean((2, 3)), self.classifier(maps).mean((2, 3))


class Fire(nn.Module):
    """A 1x1 squeeze, then 1x1 and 3x3 convolutions beside each other."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e h w"]:
        """Twice `expanded` channels, at the same size."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)

"""The small networks between a ViT and a self-supervised loss: MoCo v3's projector, DINO's prototypes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def projector(width: int, hidden: int, out: int, *, layers: int) -> nn.Sequential:
    """MoCo v3's MLP (arXiv:2104.02057, appendix): batch norm after every layer, the last plain."""
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*modules, nn.Linear(width, out, bias=False), nn.BatchNorm1d(out, affine=False))


class Prototypes(nn.Module):
    """DINO's head: an MLP onto the unit sphere, then cosines with unit vectors (arXiv:2104.14294)."""

    def __init__(self, width: int, hidden: int, out: int, prototypes: int) -> None:
        """Linear layers N(0, 0.02) as DINO draws them."""
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, out), dim=1))

    def forward(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k"]:
        """Cosine with each prototype."""
        return F.linear(F.normalize(self.mlp(tokens).float(), dim=-1), F.normalize(self.prototypes, dim=-1))

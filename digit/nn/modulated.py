"""patches -> hidden states, by blocks that a condition modulates (DiT, arXiv:2212.09748: adaLN-Zero)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-6  # of norms of queries and keys: torch's own depends on the number format


class ModulatedBlock(nn.Module):
    """Attention with normalised queries and keys, and a feed-forward part, each shifted, scaled and gated.

    The gates start at zero, so that a new block passes on what it reads.
    """

    def __init__(self, width: int, heads: int, *, mlp: int = 4) -> None:
        """Fresh weights; `width` is a multiple of `heads`."""
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query_norm, self.key_norm = (nn.RMSNorm(width // heads, eps=EPS) for _ in range(2))
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp * width), nn.GELU(approximate="tanh"), nn.Linear(mlp * width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"]) -> Float[Tensor, "b n d"]:
        """One block, its rows under a condition each."""
        shift, scale, gate, *of_mlp = self.modulation(F.silu(condition)).unsqueeze(1).chunk(6, -1)
        x = x + gate * self._attend(modulated(self.norms[0](x), shift, scale))
        shift, scale, gate = of_mlp
        return x + gate * self.mlp(modulated(self.norms[1](x), shift, scale))

    def _attend(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        split = self.qkv(x).view(b, n, 3, self.heads, d // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        queries, keys = _normed(queries, self.query_norm), _normed(keys, self.key_norm)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


def _normed(x: Float[Tensor, "b h n c"], norm: nn.RMSNorm) -> Float[Tensor, "b h n c"]:
    """In float32, whatever the rest is in."""
    return F.rms_norm(x.float(), (x.shape[-1],), norm.weight.float(), EPS).to(x.dtype)


class Times(nn.Module):
    """Times in [0, 1] -> vectors: sines and cosines of 1 to 1,000 turns a unit, through two layers."""

    def __init__(self, width: int, *, waves: int = 128, zeros: bool = False) -> None:
        """Fresh weights; the waves are no parameters. `zeros`: all vectors are, before training."""
        super().__init__()
        turns = 1000 ** (torch.arange(waves) / max(1, waves - 1))
        self.register_buffer("rates", 2 * math.pi * turns, persistent=False)
        last = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(2 * waves, width), nn.SiLU(), last)
        if zeros:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, times: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """A vector for each."""
        angles = times.float()[:, None] * self.get_buffer("rates")
        return self.layers(torch.cat((angles.cos(), angles.sin()), -1))


def modulated(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b 1 d"], scale: Float[Tensor, "b 1 d"]
) -> Float[Tensor, "b n d"]:
    """Each row scaled by 1 + scale and shifted, channel by channel."""
    return x * (1 + scale) + shift

"""A codebook that follows its latents by moving averages (VQ-VAE, arXiv:1711.00937, appendix A.1)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.distributed import add_up, as_main


class MovingCodebook(nn.Module):
    """The averages of one code table. Everything is float32 and nothing waits for the device.

    Of several processes each has latents of its own, and all end with the same table: the averages are over
    the latents of all, and what is drawn at random is drawn by the main one, from its own.

    `decay`: of the averages, a step. `dead_after`: steps without use after which a code restarts at a random
    latent of the batch, drawn by torch's generator.
    """

    counts: Tensor
    sums: Tensor
    idle: Tensor

    def __init__(self, codes: int, dim: int, *, decay: float, dead_after: int) -> None:
        """Empty averages, until `start`."""
        super().__init__()
        self.decay, self.dead_after = decay, dead_after
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, dim))
        self.register_buffer("idle", torch.zeros(codes, dtype=torch.int64))

    @torch.no_grad()
    def start(self, table: Float[Tensor, "k d"], latents: Float[Tensor, "m d"]) -> None:
        """Put every code on a random latent, each latent once if there are enough."""
        k, m = len(table), len(latents)
        rows = torch.cat([torch.randperm(m, device=latents.device) for _ in range(-(-k // m))])[:k]
        table.copy_(latents[rows])
        as_main(table)
        self.counts.fill_(1)
        self.sums.copy_(table)
        self.idle.zero_()

    @torch.no_grad()
    def follow(
        self,
        table: Float[Tensor, "k d"],
        latents: Float[Tensor, "m d"],
        codes: Int[Tensor, " m"],
        *,
        decay: float | None = None,
    ) -> None:
        """Move `table`, in place, to the averages of each code's latents; decay 0 is a k-means step."""
        decay = self.decay if decay is None else decay
        counts = torch.zeros_like(self.counts).index_add_(0, codes, self.counts.new_ones(len(codes)))
        sums = torch.zeros_like(self.sums).index_add_(0, codes, latents.float())
        add_up(counts, sums)
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        known = self.counts > 1e-6
        mean = self.sums / self.counts.clamp(min=1e-6)[:, None]
        table.copy_(torch.where(known[:, None], mean, table))
        self.idle.add_(1).masked_fill_(counts > 0, 0)
        self._restart(table, latents.float())

    def _restart(self, table: Tensor, latents: Tensor) -> None:
        dead = self.idle >= self.dead_after
        fresh = latents[torch.randint(len(latents), (len(table),), device=latents.device)]
        as_main(fresh)
        table.copy_(torch.where(dead[:, None], fresh, table))
        self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
        self.counts.masked_fill_(dead, 1)
        self.idle.masked_fill_(dead, 0)

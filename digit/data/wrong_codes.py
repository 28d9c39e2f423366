"""Codes wrong on purpose: in training a renderer reads some that are near the true ones.

As RobustTok does to a VQGAN's decoder (arXiv:2503.08354): a renderer that never read a mistake shows each one
that a prior makes. What it should draw stays what the true codes stand for.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.bounds import Decay
from digit.calls import check_fields, checked
from digit.data.ahead import sent
from digit.errors import DigitError
from digit.nn.nearest import rows_at_once

NEAR = 16  # codes that may stand for one: those of the nearest other centroids
PICTURES = 0.5  # share of pictures in which codes are wrong


@checked
@torch.no_grad()
def neighbours(centroids: Float[Tensor, "k d"]) -> Int[Tensor, "k m"]:
    """The codes of the nearest other centroids of each, at most 16, the nearest first; all on the CPU.

    DigitError for fewer than two centroids.
    """
    k = len(centroids)
    if k < 2:
        raise DigitError(f"a tokenizer of {k} code has none that could be wrong: leave wrong codes at 0")
    table = centroids.detach().float().cpu()
    squares, found, most = table.square().sum(1), [], rows_at_once(k, table.device)
    for first in range(0, k, most):
        part = table[first : first + most]
        distances = torch.addmm(squares, part, table.T, alpha=-2)
        own = torch.arange(len(part))
        distances[own, own + first] = torch.inf
        found.append(distances.topk(min(NEAR, k - 1), largest=False).indices)
    return torch.cat(found)


@dataclass(frozen=True, eq=False)
class WrongCodes:
    """How many codes are wrong, and which may stand for each."""

    rate: Decay  # of half of the pictures a share of codes is wrong, any from 0 to this as likely
    near: Int[Tensor, "k m"]  # as `neighbours` gives them

    def __post_init__(self) -> None:
        """Fail at construction with the field's name."""
        check_fields(self)

    def among(
        self, codes: Int[Tensor, "b n"], *, seed: int, step: int, batch: int, here: slice
    ) -> Int[Tensor, "b n"]:
        """The codes, some of them replaced by one of their near ones, each as likely.

        A function of seed, step and the place in the whole batch, of which the codes are the rows `here`.
        """
        draw, size = np.random.default_rng((seed, step, 2)), (batch, codes.shape[1])
        share = draw.uniform(0, self.rate, (batch, 1)) * (draw.random((batch, 1)) < PICTURES)
        wrong = draw.random(size, np.float32) < share
        other = draw.integers(self.near.shape[1], size=size, dtype=np.uint8)
        wrong, other = (sent(each[here], codes.device) for each in (wrong, other))
        return torch.where(wrong, self.near.to(codes.device)[codes, other.long()], codes)

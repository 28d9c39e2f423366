"""logits -> codes: top-k and top-p, and the largest sum of logit and noise."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from digit.calls import check_fields
from digit.errors import DigitError
from digit.nn.noise import gumbels

DRAW = "gumbel-philox"  # the rule of `draw` and its noise: under another a seed gives another picture
COLDEST = 1e-6  # temperature above 0 by which no logit overflows float32
PART = 2**24  # logits of one draw; more are drawn in parts, which bounds their noise and float64 copies


@dataclass(frozen=True)
class SamplerConfig:
    """How one code is drawn from its logits. Raises DigitError for values without a meaning."""

    temperature: float = 1.0  # divides the logits; 0 takes the largest
    top_k: int = 0  # codes kept, exactly this many; 0 keeps all
    top_p: float = 1.0  # probability kept, the crossing code included; 1 keeps all
    top_p_of: Literal["codes", "vocabulary"] = "codes"  # whose probability top_p cuts: the codes' alone, or
    # with that of special symbols, though they are never drawn, as in fairseq (search.py, _sample_topp). The
    # two differ for imported models only, and little.
    guidance: float = 1.0  # logits = null + guidance x (conditional - null); 1 leaves the null out
    guidance_schedule: Literal["constant", "linear"] = "constant"  # linear: from 1 at the first code

    def __post_init__(self) -> None:
        """Fail before the first batch."""
        check_fields(self)
        if not 0 <= self.temperature < float("inf"):
            raise DigitError(
                f"temperature is {self.temperature}: give a number from 0 (the likeliest code) up"
            )
        if 0 < self.temperature < COLDEST:
            raise DigitError(
                f"temperature is {self.temperature}: give 0 (the likeliest code) or a number from {COLDEST}"
            )
        if self.top_k < 0:
            raise DigitError(f"top_k is {self.top_k}: give the number of codes to keep, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise DigitError(f"top_p is {self.top_p}: give a probability above 0, up to 1 for all codes")
        if self.top_p_of not in ("codes", "vocabulary"):
            raise DigitError(f"top_p is of {self.top_p_of!r}: give codes or vocabulary")
        if self.top_p_of == "vocabulary" and self.top_k and self.top_p < 1:
            raise DigitError(
                "top-p of the whole vocabulary goes without top-k, as in fairseq: give one of them"
            )
        if not 0 <= self.guidance < float("inf"):
            raise DigitError(f"guidance is {self.guidance}: give a number from 0 up, where 1 is none")
        if self.guidance_schedule not in ("constant", "linear"):
            raise DigitError(f"guidance schedule is {self.guidance_schedule!r}: give constant or linear")

    def guidance_at(self, position: int, length: int) -> float:
        """The guidance of one of `length` positions, counted from 0."""
        if self.guidance_schedule == "constant":
            return self.guidance
        return 1 + (self.guidance - 1) * position / max(1, length - 1)


def filter_logits(
    logits: Float[Tensor, "... v"], config: SamplerConfig, *, specials: Float[Tensor, "... s"] | None = None
) -> Float[Tensor, "... v"]:
    """The logits with -inf outside the kept codes: top-k first, then top-p of what it left.

    Exactly k codes stay whatever the ties; of equal logits the lowest code goes first. Top-p keeps codes in
    falling order until their probability reaches p (equal is reached), the one that reaches it included.
    Temperature is the caller's. `specials` are the logits of symbols that are no codes, for top_p_of
    "vocabulary": if the codes have less than p between them, all are kept.
    """
    codes = logits.shape[-1]
    if config.top_p >= 1 and not 0 < config.top_k < codes:
        return logits
    if 0 < config.top_k < codes:
        largest = logits.topk(config.top_k, dim=-1).values
    else:
        largest = logits.sort(dim=-1, descending=True).values
    if config.top_p < 1:
        mass = largest.softmax(-1).cumsum(-1, dtype=torch.float64)
        if specials is not None and config.top_p_of == "vocabulary":
            share = (logits.logsumexp(-1) - specials.logsumexp(-1)).to(torch.float64).sigmoid()
            mass = mass * share.unsqueeze(-1)
        kept = (mass < config.top_p).sum(-1, keepdim=True).add_(1).clamp_(max=largest.shape[-1])
        smallest = largest.gather(-1, kept - 1)
    else:
        kept, smallest = config.top_k, largest[..., -1:]
    above, tied = logits > smallest, logits == smallest
    room = kept - above.sum(-1, keepdim=True)
    keep = above | (tied & (tied.cumsum(-1, dtype=torch.int32) <= room))
    return logits.masked_fill(~keep, float("-inf"))


def draw(
    logits: Float[Tensor, "*b v"],
    keys: Int[Tensor, "*#b 2"],
    places: Int[Tensor, "*#b"],
    config: SamplerConfig,
    *,
    step: int = 0,
    specials: int = 0,
) -> Int[Tensor, "*b"]:
    """One code per row: the largest sum of logit / temperature and Gumbel noise, the lowest of equal ones.

    So codes follow the softmax of what the filters keep, and a rounding of the logits changes a code only
    where two sums are as near. The noise is that of `nn.noise.gumbels` at keys, places and step. Temperature
    0 takes the largest logit. The first `specials` logits are of symbols that are not drawn; codes count from
    the next.
    """
    if logits.device.type == "mps":  # which has no float64
        how = {"step": step, "specials": specials}
        return draw(logits.cpu(), keys, places, config, **how).to(logits.device)
    keys, places = keys.expand(*logits.shape[:-1], 2), places.expand(logits.shape[:-1])
    if logits.numel() > PART and len(logits) > 1:
        halves = zip(logits.tensor_split(2), keys.tensor_split(2), places.tensor_split(2), strict=True)
        how = {"step": step, "specials": specials}
        return torch.cat([draw(half, its, at, config, **how) for half, its, at in halves])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if config.temperature == 0:
        return logits[..., specials:].argmax(-1)
    # Divided by a tensor: by a number, a GPU multiplies with its inverse.
    logits = logits / logits.new_tensor(config.temperature)
    others = logits[..., :specials] if specials else None
    kept = filter_logits(logits[..., specials:], config, specials=others)
    return (kept + gumbels(keys, places, kept.shape[-1], step=step).to(kept.device)).argmax(-1)

"""hidden states -> codes, one after another: the loop that decodes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from digit.errors import DigitError
from digit.nn.forms import replaceable
from digit.nn.sampling import SamplerConfig, draw
from digit.nn.transformer import Transformer

# Sees what is drawn so far, a copy on the CPU: codes of which -1 are not drawn yet, or a renderer's pixels.
Watch = Callable[[Tensor], None]
CacheBits = Literal[16, 8]  # of a number in the cache of keys and values; 16 stands for as they come


@dataclass(frozen=True)
class CodeTables:
    """How codes are read, and how hidden states become logits over them."""

    codes: Float[Tensor, "k d"]  # embedding of each code
    positions: Float[Tensor, "n d"]  # row p + 1 is added to the code of position p
    scale: float  # factor of the codes' embeddings
    head: Float[Tensor, "v d"]  # logits of the specials, then of the codes
    specials: int = 0  # symbols that are scored and never drawn

    def embed(self, codes: Int[Tensor, " b"], position: int) -> Float[Tensor, "b 1 d"]:
        """The codes of one position, counted from 0, as the transformer reads them."""
        return (self.codes[codes] * self.scale + self.positions[position + 1]).unsqueeze(1)

    def logits(self, hidden: Float[Tensor, "r d"]) -> Float[Tensor, "r v"]:
        """Scores of specials and codes."""
        return F.linear(hidden, self.head)


def products_dtype(network: nn.Module, autocast: bool | None = None) -> torch.dtype:
    """bfloat16 under autocast, else the weights' own."""
    weight = next(network.parameters())
    return torch.bfloat16 if _autocasts(weight, autocast) else weight.dtype


def _autocasts(weight: Tensor, asked: bool | None) -> bool:
    """As asked; if nobody was, on CUDA."""
    return weight.is_cuda if asked is None else asked


@contextmanager
def inference(network: nn.Module, *, autocast: bool | None = None) -> Iterator[torch.dtype]:
    """No gradients, no dropout, bfloat16 if asked (default: on CUDA); gives the dtype of keys and values."""
    weight = next(network.parameters())
    before, training = network.training, any(part.training for part in network.modules())
    if training:
        network.eval()
    try:
        casts = _autocasts(weight, autocast)
        with torch.inference_mode(), torch.autocast(weight.device.type, torch.bfloat16, enabled=casts):
            yield products_dtype(network, autocast)
    finally:
        if training:
            network.train(before)
        torch.clear_autocast_cache()  # an outer autocast would train on copies without gradients


@replaceable
def decode(
    transformer: Transformer,
    prefix: Float[Tensor, "b p d"],
    *,
    keys: Int[Tensor, "b 2"],
    length: int,
    config: SamplerConfig,
    tables: CodeTables,
    null_prefix: Float[Tensor, "b p d"] | None = None,
    given: Int[Tensor, "b g"] | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
    autocast: bool | None = None,
    cache_bits: CacheBits = 16,
) -> Int[Tensor, "b n"]:
    """Draw n codes per row, each from the logits given the embedded prefix and the codes before it.

    Args:
        transformer: reads each position once; keys and values of those before it are cached.
        prefix: what stands before the first drawn code, as the transformer reads it.
        keys: of the noise, by `nn.noise.keys`; its places are the positions.
        length: codes per row, n.
        config: how a code is drawn from its logits.
        tables: how codes are read, and how hidden states become logits.
        null_prefix: the prefix without its condition, for guidance; its rows ride in the same batch.
        given: the codes of the first g positions, with which the prefixes already end. They stand first in
            the result, and each later position keeps its own noise.
        progress: called with the number of codes that each step drew.
        watch: called with the codes after each step.
        autocast: bfloat16; by default on CUDA only.
        cache_bits: 8 halves what is read of keys and values, which only the form for GPUs can.

    Raises:
        DigitError: guidance without a null prefix, or 8 bits where they are not known.
    """
    if cache_bits != 16:
        raise DigitError("a cache of 8 bits needs a GPU and Triton: leave cache_bits at 16")
    guided = config.guidance != 1
    if guided and null_prefix is None:
        raise DigitError(f"guidance {config.guidance} needs an unconditional prefix: sample with guidance 1")
    rows, first = len(keys), 0 if given is None else given.shape[1]
    codes = torch.full((rows, length), -1, device=prefix.device)
    if given is not None:
        codes[:, :first] = given
    if first == length:
        return codes
    with inference(transformer, autocast=autocast) as dtype:
        x = prefix if null_prefix is None or not guided else torch.cat((prefix, null_prefix))
        cache = transformer.cache(len(x), x.shape[1] + length - first - 1, dtype=dtype)
        for position in range(first, length):
            logits = tables.logits(transformer(x, cache)[:, -1])
            if guided:
                conditional, null = logits.float().chunk(2)
                logits = null + config.guidance_at(position, length) * (conditional - null)
            drawn = draw(logits, keys, torch.tensor(position), config, specials=tables.specials)
            codes[:, position] = drawn
            if progress is not None:
                progress(rows)
            if watch is not None:
                watch(codes.to("cpu", copy=True))
            if position + 1 < length:
                x = tables.embed(torch.cat((drawn, drawn)) if guided else drawn, position)
    return codes

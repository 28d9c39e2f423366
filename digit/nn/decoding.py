"""hidden states -> codes, one after another: the one loop that decodes."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from digit.errors import DigitError
from digit.nn.pieces import modules_of
from digit.nn.sampling import SamplerConfig, draw
from digit.nn.transformer import Transformer

CacheBits = Literal[16, 8]  # of a number in the cache of keys and values; 16 stands for as they come


def has_kernels(device: torch.device) -> bool:
    """Whether the kernels of `fast_decoding` run here: a GPU, and Triton."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


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


def products_dtype(transformer: Transformer, autocast: bool | None = None) -> torch.dtype:
    """bfloat16 under autocast, else the weights' own."""
    weight = next(transformer.parameters())
    return torch.bfloat16 if _autocasts(weight, autocast) else weight.dtype


def _autocasts(weight: Tensor, asked: bool | None) -> bool:
    """As asked; if nobody was, on CUDA."""
    return weight.is_cuda if asked is None else asked


@contextmanager
def inference(transformer: Transformer, *, autocast: bool | None = None) -> Iterator[torch.dtype]:
    """No gradients, no dropout, bfloat16 if asked (default: on CUDA); gives the dtype of keys and values."""
    weight = next(transformer.parameters())
    before, training = transformer.training, any(part.training for part in modules_of(transformer))
    if training:
        transformer.eval()
    try:
        casts = _autocasts(weight, autocast)
        with torch.inference_mode(), torch.autocast(weight.device.type, torch.bfloat16, enabled=casts):
            yield products_dtype(transformer, autocast)
    finally:
        if training:
            transformer.train(before)
        torch.clear_autocast_cache()  # an outer autocast would train on copies without gradients


def decode(
    transformer: Transformer,
    prefix: Float[Tensor, "b p d"],
    *,
    uniforms: Float[Tensor, "b n"],
    config: SamplerConfig,
    tables: CodeTables,
    null_prefix: Float[Tensor, "b p d"] | None = None,
    given: Int[Tensor, "b g"] | None = None,
    progress: Callable[[int], None] | None = None,
    use_cache: bool = True,
    autocast: bool | None = None,
    cache_bits: CacheBits = 16,
    fast: bool | None = None,
) -> Int[Tensor, "b n"]:
    """Draw n codes a row, each from the logits given the embedded prefix and the codes before it.

    Null rows ride in the same batch. `given` are the codes of the first g positions, with which the embedded
    prefixes already end: they are read in one pass and stand first in the result, and each later position
    keeps its own uniform number. `progress` hears how many codes each step drew.

    On a GPU with Triton the positions run as captured graphs (`fast_decoding`), unless `fast` is False; the
    result means the same. There `cache_bits` 8 halves what is read of keys and values; elsewhere it is not
    known. Rows for which the GPU has no memory wait for the others.

    Raises DigitError for guidance without a null prefix, and for 8 bits on the plain path.
    """
    guided = config.guidance != 1
    if guided and null_prefix is None:
        raise DigitError(f"guidance {config.guidance} needs an unconditional prefix: sample with guidance 1")
    first = 0 if given is None else given.shape[1]
    if fast is None:
        fast = use_cache and has_kernels(prefix.device) and prefix.dtype != torch.float64
    if cache_bits != 16 and not fast:
        raise DigitError("a cache of 8 bits needs a GPU and Triton: leave cache_bits at 16")
    arguments = {"uniforms": uniforms.to(prefix.device), "config": config, "tables": tables, "first": first}
    with inference(transformer, autocast=autocast) as dtype:
        prefixes = (prefix, null_prefix) if guided and null_prefix is not None else (prefix,)
        if first == uniforms.shape[1]:
            codes = torch.empty(uniforms.shape, dtype=torch.int64, device=prefix.device)
        elif fast:
            from digit.fast.decoding import fast_codes

            codes = fast_codes(
                transformer, prefixes, **arguments, dtype=dtype, bits=cache_bits, progress=progress
            )
        else:
            codes = _plain_codes(
                transformer, prefixes, **arguments, dtype=dtype if use_cache else None, progress=progress
            )
        if given is not None:
            codes[:, :first] = given
    return codes.clone()  # outside of inference mode: a tensor that may also be trained on


def _plain_codes(
    transformer: Transformer,
    prefixes: tuple[Float[Tensor, "b p d"], ...],
    *,
    uniforms: Float[Tensor, "b n"],
    config: SamplerConfig,
    tables: CodeTables,
    first: int,
    dtype: torch.dtype | None,
    progress: Callable[[int], None] | None,
) -> Int[Tensor, "b n"]:
    """Codes from the position `first` on; without a dtype of the cache there is none."""
    (rows, length), guided, x = uniforms.shape, len(prefixes) > 1, torch.cat(prefixes)
    room = x.shape[1] + length - first - 1
    cache = None if dtype is None else transformer.cache(len(x), room, dtype=dtype)
    codes = torch.empty(rows, length, dtype=torch.int64, device=x.device)
    for position in range(first, length):
        logits = tables.logits(transformer(x, cache)[:, -1])
        if guided:
            conditional, null = logits.float().chunk(2)
            logits = null + config.guidance_at(position, length) * (conditional - null)
        drawn = draw(logits, uniforms[:, position], config, specials=tables.specials)
        codes[:, position] = drawn
        if progress is not None:
            progress(rows)
        if position + 1 < length:
            embedded = tables.embed(drawn, position)
            embedded = torch.cat((embedded, embedded)) if guided else embedded
            x = torch.cat((x, embedded), dim=1) if cache is None else embedded
    return codes

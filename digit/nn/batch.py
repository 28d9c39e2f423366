"""What stages train on, pictures or codes with the reference's symbols; and any batch in pieces that fit.

Models of ours score codes and nothing else. An imported model was trained to score fairseq's five special
symbols too: the softmax of its loss and of its top-p runs over all of them. So it keeps their rows. The end
is predicted after the last code, the others never occur as targets, and none of them is ever drawn.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import _pytree

from digit.errors import DigitError

Specials = Literal[0, 5]  # none, or fairseq's: <s>, <pad>, </s>, <unk>, <n>; code k has id 5 + k

LARGE = 64  # side in pixels above which 16 pictures keep a GPU busy; 64 smaller ones are needed
PAD, END, MASK = 1, 2, 3  # ids; END also starts a sequence


class PixelBatch(NamedTuple):
    """Pictures with their labels, on one device."""

    pixels: Float[Tensor, "b 3 h w"]  # in [0, 1]
    labels: Int[Tensor, " b"] | None


class ViewBatch(NamedTuple):
    """Pictures with the codes of the very views that the pixels show, on one device."""

    pixels: Float[Tensor, "b 3 h w"]  # in [0, 1]
    codes: Int[Tensor, "b n"]
    labels: Int[Tensor, " b"] | None = None  # class indices, -1 for none


class CodeBatch(NamedTuple):
    """Codes of b images with what goes with them; all on one device, int64, without offsets."""

    codes: Int[Tensor, "b n"]  # the prior's codes; VQ codes if the prior is the baseline over VQ codes
    labels: Int[Tensor, " b"] | None = None  # class indices, -1 for none
    vq_codes: Int[Tensor, "b m"] | None = None  # what a renderer predicts


def with_end(codes: Int[Tensor, "b n"], specials: int) -> Int[Tensor, "b n+1"]:
    """The ids of codes in fairseq's vocabulary, and the end."""
    end = torch.full((len(codes), 1), END, dtype=codes.dtype, device=codes.device)
    return torch.cat((codes + specials, end), dim=1)


def in_pieces(run: Callable[[Tensor], Tensor], batch: Tensor, most: int | None = None) -> Tensor:
    """`run` of a batch, at most `most` rows at once, halved until they fit; `run` must treat rows alone.

    A single row that does not fit raises torch.OutOfMemoryError as before.
    """
    size = min(most or len(batch), len(batch)) or 1
    done: list[Tensor] = []
    start = 0
    while start < len(batch) or not done:
        try:
            done.append(run(batch[start : start + size]))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = -(-size // 2)
        else:
            start += size
            continue
        torch.cuda.empty_cache()  # outside the handler, whose traceback holds what did not fit
    return done[0] if len(done) == 1 else torch.cat(done)


def in_equal_parts(run: Callable[..., Tensor], *rows: Tensor, side: int) -> Iterator[Tensor]:
    """`run` of rows, a picture of `side` pixels for each, in parts whose size is not that of the batch.

    A GPU's products and convolutions round by how many pictures they get: always the same number, the last
    part filled up. Those of a CPU round a single one differently: it is computed as two.
    """
    size = 16 if side > LARGE else 64
    for parts in zip(*(each.split(size) for each in rows), strict=True):
        count = len(parts[0])
        whole = size if parts[0].is_cuda else max(2, count)
        filled = (torch.cat((part, part[:1].expand(whole - count, *part.shape[1:]))) for part in parts)
        yield run(*filled)[:count]


def rows(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor; DigitError if it holds none."""
    for leaf in _pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise DigitError(
        f"a batch of type {type(batch).__name__} holds no tensor: return tensors from data(step)"
    )


def split(batch: Any, size: int | None) -> list[tuple[Any, float]]:
    """Micro-batches of at most `size` samples, each with its share of the whole (the shares add up to 1).

    Every tensor with a first dimension is cut along it: in tuples, named tuples, lists and dictionaries. What
    is not a tensor goes into each part as it is.
    """
    count = rows(batch)
    if size is None or size >= count:
        return [(batch, 1.0)]
    parts = []
    for start in range(0, count, size):
        cut = slice(start, min(start + size, count))
        part = _pytree.tree_map_only(Tensor, lambda t, cut=cut: t[cut] if t.ndim else t, batch)
        parts.append((part, (cut.stop - start) / count))
    return parts

"""A batch that does not fit into the memory of a GPU, done in smaller ones."""

from collections.abc import Callable

import torch
from torch import Tensor


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

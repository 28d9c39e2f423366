"""Inference in batches: how large, smaller where one does not fit, and whether the weights are the same."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


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


def at_once(device: torch.device, pictures: int) -> int:
    """Pictures that are drawn in one batch where nobody says how many: 64 on a CPU.

    On a GPU as many as there are, for a batch of the sampler costs little more than one picture: up to 1024,
    and 64 MiB of its whole memory each, so that the number is the same whatever else runs there.
    """
    if device.type != "cuda":
        return 64
    room = torch.cuda.get_device_properties(device).total_memory // (64 << 20)
    return max(64, min(pictures, room, 1024))


def modules_of(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all within it, a shared one as often as it is there; without names, which take time."""
    waiting: list[nn.Module | None] = [module]
    while waiting:
        if (here := waiting.pop()) is not None:
            yield here
            waiting.extend(here._modules.values())


def state_of(module: nn.Module, *weights: Tensor) -> tuple[tuple[int, int], ...]:
    """`weight_state` of all parameters and buffers of a module, and of further weights."""
    parts = modules_of(module)
    inside = (weight for part in parts for weight in (*part._parameters.values(), *part._buffers.values()))
    return tuple(weight_state(weight) for weight in (*inside, *weights) if weight is not None)


def weight_state(weight: Tensor) -> tuple[int, int]:
    """What changes when a weight does, for what was made from it; inference tensors do not change."""
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version

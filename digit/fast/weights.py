"""Whether weights have changed since something was made from them."""

from collections.abc import Iterator

from torch import Tensor, nn


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

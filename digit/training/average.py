"""Copies of a module's tensors: the moving average of its weights, and what a skipped update puts back."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from digit.training.shards import fill, local


class WeightAverage:
    """The average of every floating-point parameter and persistent buffer of `module`.

    Buffers are averaged too, so that batch statistics and codebooks belong to the weights they are used with.
    Early on the decay is (1 + n) / (10 + n), so that the start is forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay  # share of the average that an update keeps, in [0, 1)
        self._places = list(places(module))
        self.values = {name: tensor.detach().float().clone() for name, tensor in self._live().items()}

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor | None = None) -> None:
        """Move towards the weights after update number `step` (1 is the first); not if `skipped` holds 1.

        `skipped` is on the weights' device, 0 or 1, and is not waited for.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        live = self._here(self._live())
        targets = [tensor if tensor.dtype == torch.float32 else tensor.float() for tensor in live]
        values = self._here(self.values)
        if skipped is None:
            torch._foreach_lerp_(values, targets, 1 - decay)
        else:
            towards = torch._foreach_sub(targets, values)
            torch._foreach_mul_(towards, (1 - decay) * (1 - skipped))
            torch._foreach_add_(values, towards)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The module holds the average inside the block, and its own weights again after it."""
        live = self._here(self._live())
        own = [tensor.clone() for tensor in live]
        with torch.no_grad():
            torch._foreach_copy_(live, self._here(self.values))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, own)

    @torch.no_grad()
    def give(self) -> None:
        """Copy the average into the module, for good."""
        torch._foreach_copy_(self._here(self._live()), self._here(self.values))

    def load(self, values: Mapping[str, Tensor], *, prefix: str = "") -> None:
        """Take stored values, by name behind `prefix`.

        Raises KeyError or ValueError where they are another module's.
        """
        for name, value in self.values.items():
            fill(value, values, prefix + name)

    @staticmethod
    def _here(tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """What of them this process holds."""
        return [local(tensor.detach()) for tensor in tensors.values()]

    def _live(self) -> dict[str, Tensor]:
        """The module's tensors as they are now: a buffer may have been replaced by assignment."""
        return {name: place[key] for name, place, key in self._places}  # type: ignore[misc]


class Untrained:
    """The floating-point buffers and frozen parameters of a module, as they were before an update.

    Batch statistics and a codebook that follows its latents are written in the forward pass, so a batch that
    is not finite reaches them before anybody can look. Counters, which are integers, go on. Writing to a
    frozen parameter's `.data`, which torch does not count, is not noticed.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = [
            (place, key)
            for _, place, key in places(module, persistent=False)
            if not (isinstance(place[key], nn.Parameter) and place[key].requires_grad)
        ]
        self._kept: list[Tensor] = []
        self._seen: list[int] = []  # how often each had been written

    @torch.no_grad()
    def keep(self) -> None:
        """Copy all of them; nothing waits for the device."""
        live = self._live()
        if not live:
            return
        if [tensor.shape for tensor in live] != [tensor.shape for tensor in self._kept]:
            self._kept = [torch.empty_like(tensor) for tensor in live]
        torch._foreach_copy_(self._kept, live)
        self._seen = [tensor._version for tensor in live]

    @torch.no_grad()
    def put_back(self, where: Tensor | None = None) -> None:
        """Restore what was written since `keep`: at once if `where` is None, else where it holds 1."""
        for tensor, kept, seen in zip(self._live(), self._kept, self._seen, strict=True):
            # Batch normalisation's kernels do not count their writes, so buffers are always restored.
            if tensor._version != seen or not isinstance(tensor, nn.Parameter):
                tensor.copy_(kept if where is None else torch.where(where > 0, kept, tensor))

    def _live(self) -> list[Tensor]:
        """What this process holds of them now: a buffer may have been replaced by assignment."""
        return [local(place[key]) for place, key in self._places]


def places(module: nn.Module, *, persistent: bool = True) -> Iterator[tuple[str, dict, str]]:
    """(name, dictionary, key) of each floating-point parameter and buffer, each tensor once.

    `persistent`: only buffers that are part of a state_dict.
    """
    seen: set[int] = set()
    for prefix, part in module.named_modules():
        skipped = part._non_persistent_buffers_set if persistent else set()
        for place, left_out in ((part._parameters, set()), (part._buffers, skipped)):
            for key, tensor in place.items():
                if tensor is None or key in left_out or not tensor.is_floating_point() or id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                yield f"{prefix}.{key}" if prefix else key, place, key

"""What a loss writes besides gradients, and how it is taken back when an update is skipped."""

import torch
from torch import Tensor, nn

from digit.training.average import places
from digit.training.shards import local


class Untrained:
    """The floating-point buffers and frozen parameters of a module, as they were before an update.

    Batch statistics and a codebook that follows its latents are written in the forward pass, so a batch that
    is not finite reaches them before anybody can look. Counters, which are integers, go on. Writing to a
    frozen parameter's `.data`, which torch does not count, is not noticed.
    """

    def __init__(self, module: nn.Module) -> None:
        """Nothing is copied yet."""
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

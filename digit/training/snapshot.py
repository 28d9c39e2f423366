"""What a thread can write while training goes on: copies of tensors, and a stage that holds them."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from digit.training.average import places


class Snapshot:
    """Copies of tensors on the CPU, in memory of their own that every copy uses again.

    New memory would take longer: the system hands it out page by page.
    """

    def __init__(self) -> None:
        """Nothing is copied yet."""
        self._kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as they are now, from any device; what the call before gave is overwritten."""
        before, self._kept = self._kept, {}
        for name, tensor in tensors.items():
            kept = before.get(name)
            if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                kept = torch.empty(tensor.shape, dtype=tensor.dtype)
            self._kept[name] = kept.copy_(tensor)
        return dict(self._kept)


class Twin:
    """A second stage on the CPU, in eval mode, whose weights are those of a snapshot and do not move."""

    def __init__(self, stage: nn.Module) -> None:
        """Copy the stage as it is before training: neither compiled nor spread over processes."""
        self.stage = copy.deepcopy(stage).cpu().eval()

    @torch.no_grad()
    def fill(self, model: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> nn.Module:
        """The stage with the tensors of its state_dict, and the average in place of those that have one."""
        self.stage.load_state_dict(model)
        for name, place, key in places(self.stage):
            if name in average:
                place[key].copy_(average[name])
        return self.stage

"""A stage's loss on the meta device, for counting: tensors have no data there, so nothing is computed."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def tensors_of(stage: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers without data, by their names; parameters ask for gradients as the stage's do."""
    return {
        name: tensor.detach().to("meta").requires_grad_(tensor.requires_grad)
        for name, tensor in (*stage.named_parameters(), *stage.named_buffers())
    }


def loss(stage: nn.Module, tensors: Mapping[str, Tensor], batch: Any) -> Tensor:
    """The stage's `loss` of a batch on the meta device, with `tensors` in place of its own.

    Raises RuntimeError where the loss asks for values.
    """
    named = {f"stage.{name}": tensor for name, tensor in tensors.items()}
    return torch.func.functional_call(_Loss(stage), named, (batch,))


@contextlib.contextmanager
def unchanged(stage: nn.Module) -> Iterator[None]:
    """After it the attributes of the stage's modules, and random numbers, are as they were before."""
    before = [(module, dict(vars(module))) for module in stage.modules()]
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


class _Loss(nn.Module):
    """A stage whose forward is its loss, as functional_call needs it."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, batch: Any) -> Tensor:
        compute: Any = self.stage.loss
        return compute(batch)

"""Work on a GPU captured once and replayed: its many launches then cost the host one."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Output = TypeVar("Output")


def capture(work: Callable[[], Output], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Output]:
    """A graph of `work`, and what that returns: tensors that each replay writes anew.

    Before, it runs once on a side stream, which compiles kernels and sets up libraries.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = work()
    return graph, output


class Captured:
    """`work` of tensors of these kinds, captured; a call overwrites what the call before gave."""

    def __init__(self, work: Callable[..., Tensor], *given: Tensor) -> None:
        self._given = [each.clone() for each in given]
        self._graph, self._output = capture(lambda: work(*self._given), given[0].device)

    def __call__(self, *given: Tensor) -> Tensor:
        """What `work` gives."""
        for place, each in zip(self._given, given, strict=True):
            place.copy_(each)
        self._graph.replay()
        return self._output

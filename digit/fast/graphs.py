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


class Replayed:
    """`work(x)`, by a graph once tensors of the same kind come again and again.

    The graph is made when a kind comes twice in a row, if memory has ample room for it, and stays until
    another kind does. So a stream of equal batches is replayed, and its smaller end leaves the graph alone.

    Args:
        work: a function of one tensor without host synchronisation.
        needs: bytes of GPU memory that `work` holds at once for such a tensor, at most.
    """

    def __init__(self, work: Callable[[Tensor], Tensor], needs: Callable[[Tensor], int]) -> None:
        self._work, self._needs = work, needs
        self._last: object = None  # the kind of the tensor before
        self._kind: object = None  # of the graph
        self._captured: Captured | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """What `work` gives; a replay overwrites what the replay before gave."""
        if not x.is_cuda:
            return self._work(x)
        return self._on_gpu(x)

    def _on_gpu(self, x: Tensor) -> Tensor:
        kind = x.shape, x.dtype, x.device
        if self._captured is None or self._kind != kind:
            again, self._last = self._last == kind, kind
            if not again or self._needs(x) > _free(x.device) // 2:
                return self._work(x)
            self._captured = None  # its memory first
            with torch.inference_mode(False), torch.no_grad():  # its tensors are for callers in either mode
                self._captured, self._kind = Captured(self._work, x), kind
        return self._captured(x)


def _free(device: torch.device) -> int:
    """Bytes that nobody has taken."""
    return torch.cuda.mem_get_info(device)[0]

"""Work on a GPU captured once and replayed: its many launches then cost the host one."""

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass
class _Captured:
    given: Tensor
    output: Tensor
    replay: Callable[[], None]


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
        self._last: object = None
        self._captured: _Captured | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """What `work` gives; a replay overwrites what the replay before gave."""
        if not x.is_cuda:
            return self._work(x)
        return self._on_gpu(x)

    def _on_gpu(self, x: Tensor) -> Tensor:
        kind = _kind(x)
        captured = self._captured
        if captured is None or _kind(captured.given) != kind:
            again, self._last = self._last == kind, kind
            if not again or self._needs(x) > _free(x.device) // 2:
                return self._work(x)
            self._captured = captured = None  # its memory first
            with torch.inference_mode(False), torch.no_grad():  # its tensors are for callers in either mode
                given = x.clone()
                graph, output = capture(lambda: self._work(given), x.device)
            self._captured = captured = _Captured(given, output, graph.replay)
        captured.given.copy_(x)
        captured.replay()
        return captured.output


def _kind(x: Tensor) -> tuple[object, ...]:
    return x.shape, x.dtype, x.device


def _free(device: torch.device) -> int:
    """Bytes that nobody has taken."""
    return torch.cuda.mem_get_info(device)[0]

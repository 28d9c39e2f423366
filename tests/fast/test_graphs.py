"""When work is captured, when its graph is replayed, and what that leaves alone; capture itself is faked."""

import pytest
import torch

from digit.fast import graphs


class Graph:
    """Does at each replay what was captured, into the output that capture gave."""

    def __init__(self, work):
        self.work, self.output = work, work()

    def replay(self):
        self.output.copy_(self.work())


@pytest.fixture
def made(monkeypatch):
    """Graphs as they are captured, on tensors that pass for a GPU's."""
    found = []

    def capture(work, device):
        found.append(Graph(work))
        return found[-1], found[-1].output

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(graphs, "_free", lambda device: 1000)
    return found


def test_equal_kinds_in_a_row_are_replayed(made):
    calls = []

    def work(x):
        calls.append(len(x))
        return 2 * x

    run = graphs.Replayed(work, lambda x: 100)._on_gpu
    for number in range(5):
        x = torch.full((3,), float(number))
        torch.testing.assert_close(run(x), 2 * x)
        assert len(made) == (number > 0)
    tail = torch.ones(2)
    torch.testing.assert_close(run(tail), 2 * tail)
    x = torch.rand(3)
    torch.testing.assert_close(run(x), 2 * x)  # the smaller end between left the graph alone
    assert len(made) == 1
    for _ in range(2):
        x = torch.rand(3).double()
        torch.testing.assert_close(run(x), 2 * x)
    assert len(made) == 2  # a type of its own


@pytest.mark.parametrize(
    "modes", [(torch.inference_mode, torch.no_grad), (torch.no_grad, torch.inference_mode)]
)
def test_a_graph_serves_callers_in_either_mode(made, modes):
    run = graphs.Replayed(lambda x: 2 * x, lambda x: 100)._on_gpu
    for mode in modes:
        for _ in range(3):
            with mode():
                x = torch.rand(3)
                torch.testing.assert_close(run(x), 2 * x)
    assert len(made) == 1


def test_without_room_or_a_gpu_nothing_is_captured(made):
    run = graphs.Replayed(lambda x: 2 * x, lambda x: 501)
    for _ in range(3):
        torch.testing.assert_close(run._on_gpu(torch.ones(3)), torch.full((3,), 2.0))
        torch.testing.assert_close(run(torch.ones(3)), torch.full((3,), 2.0))
    assert not made

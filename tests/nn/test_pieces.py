"""A batch in pieces: halved where memory ends, in order, and never for nothing."""

from types import SimpleNamespace

import pytest
import torch

from digit.nn.pieces import at_once, in_pieces, modules_of, state_of, weight_state


@pytest.mark.parametrize(("room", "most", "sizes"), [
    (99, None, [10]), (99, 4, [4, 4, 2]), (3, None, [10, 5, 3, 3, 3, 1]), (1, 8, [8, 4, 2] + [1] * 10),
])  # fmt: skip
def test_pieces(room, most, sizes):
    asked = []

    def run(rows: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows))
        if len(rows) > room:
            raise torch.OutOfMemoryError("too much")
        return rows * 2

    batch = torch.arange(10)
    assert torch.equal(in_pieces(run, batch, most), batch * 2)
    assert asked == sizes


def test_one_row_that_does_not_fit_is_an_error():
    def run(rows: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        in_pieces(run, torch.zeros(3))


def test_nothing_gives_nothing():
    assert in_pieces(lambda rows: rows[:, :1], torch.zeros(0, 3)).shape == (0, 1)


@pytest.mark.parametrize(
    ("gibibytes", "pictures", "batch"), [(80, 16, 64), (80, 500, 500), (80, 50_000, 1024), (24, 50_000, 384)]
)
def test_batches_of_a_gpu_are_large_and_follow_its_memory(monkeypatch, gibibytes, pictures, batch):
    assert at_once(torch.device("cpu"), pictures) == 64
    card = SimpleNamespace(total_memory=gibibytes << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert at_once(torch.device("cuda"), pictures) == batch


def test_the_state_of_a_weight_changes_with_it():
    weight = torch.nn.Parameter(torch.zeros(2))
    before = weight_state(weight)
    assert weight_state(weight) == before
    with torch.no_grad():
        weight += 1
    assert weight_state(weight) != before


def test_a_walk_meets_every_module_and_weight():
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    module = torch.nn.ModuleDict({"a": inner, "b": torch.nn.Linear(2, 2, bias=False), "c": torch.nn.ReLU()})
    module.register_module("none", None)
    assert {id(part) for part in modules_of(module)} == {id(part) for part in module.modules()}
    other = torch.zeros(1)
    before = state_of(module, other)
    assert len(before) == len(list(module.parameters())) + len(list(module.buffers())) + 1
    assert state_of(module, other) == before
    with torch.no_grad():
        inner[0].bias += 1
    changed = state_of(module, other)
    assert changed != before
    inner[1].running_mean.add_(1)
    assert state_of(module, other) != changed
    module["b"].weight = torch.nn.Parameter(torch.zeros(2, 2))
    assert state_of(module, other)[-1] == changed[-1] and state_of(module, other) != changed

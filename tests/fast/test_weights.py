import torch

from digit.fast.weights import modules_of, state_of, weight_state


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

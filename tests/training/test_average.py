import torch

from digit.training.average import WeightAverage

from .stages import make


def test_average_follows_the_formula_in_float32():
    stage = make()
    average = WeightAverage(stage, 0.9)
    expected = stage.first.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            stage.first.weight.add_(torch.randn_like(stage.first.weight))
        average.update(step)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * stage.first.weight.detach()
    torch.testing.assert_close(average.values["first.weight"], expected)
    assert "calls" not in average.values and "norm.running_mean" in average.values


def test_applied_and_back():
    stage = make()
    average = WeightAverage(stage, 0.5)
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    with torch.no_grad():
        stage.first.weight.zero_()
    with average.applied():
        assert torch.equal(stage.first.weight, before["first.weight"])
    assert not stage.first.weight.any()
    average.give()
    assert torch.equal(stage.first.weight, before["first.weight"])


def test_a_buffer_that_is_assigned_anew_is_still_followed():
    stage = make()
    average = WeightAverage(stage, 0.0)
    stage.norm.running_mean = torch.full((8,), 3.0)
    average.update(1)
    with average.applied():
        assert stage.norm.running_mean.tolist() == [3.0] * 8

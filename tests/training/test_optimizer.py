import pytest
import torch
from torch import nn

from digit.errors import DigitError
from digit.training.optimizer import OptimizerConfig, build, learning_rate


def test_inverse_square_root_golden_values():
    # fairseq inverse_sqrt of the published stage 1: 125k updates, 3e-4, warm-up 6250 from 1e-7.
    config = OptimizerConfig()
    assert learning_rate(0, config, 125_000) == 1e-7
    assert learning_rate(1, config, 125_000) == pytest.approx(1e-7 + (3e-4 - 1e-7) / 6250, rel=1e-12)
    assert learning_rate(6250, config, 125_000) == pytest.approx(3e-4, rel=1e-12)
    assert learning_rate(125_000, config, 125_000) == pytest.approx(6.7082039e-5, rel=1e-7)
    renderer = OptimizerConfig(lr=5e-4)
    assert learning_rate(250_000, renderer, 250_000) == pytest.approx(7.9056942e-5, rel=1e-7)


def test_cosine_golden_values():
    # The published linear probe: 0.4 over 100k updates, no warm-up; its last update uses 9.87e-11.
    config = OptimizerConfig(lr=0.4, schedule="cosine", warmup=0)
    assert learning_rate(0, config, 100_000) == 0.4
    assert learning_rate(50_000, config, 100_000) == pytest.approx(0.2)
    assert learning_rate(99_999, config, 100_000) == pytest.approx(9.87e-11, rel=1e-3)
    assert learning_rate(200_000, config, 100_000) == 0.0
    floor = OptimizerConfig(lr=0.4, schedule="cosine", warmup=10, min_lr=0.1)
    assert learning_rate(10, floor, 100) == pytest.approx(0.4) and learning_rate(
        100, floor, 100
    ) == pytest.approx(0.1)


def test_constant():
    config = OptimizerConfig(lr=1e-3, schedule="constant", warmup=2, warmup_from=0.0)
    assert [learning_rate(step, config, 9) for step in (0, 1, 2, 8)] == [0.0, 5e-4, 1e-3, 1e-3]


def test_decay_of_everything_or_of_matrices_only():
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    everything = build(module, OptimizerConfig())
    assert [group["weight_decay"] for group in everything.param_groups] == [0.01]
    matrices = build(module, OptimizerConfig(decay_all=False))
    assert [(group["weight_decay"], len(group["params"])) for group in matrices.param_groups] == [
        (0.01, 1),
        (0.0, 3),
    ]


def test_frozen_parameters_are_left_out():
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    (group,) = build(module, OptimizerConfig()).param_groups
    assert group["params"] == [module.weight]
    with pytest.raises(DigitError, match="nothing to train"):
        build(module.requires_grad_(False), OptimizerConfig())


def test_one_update_is_that_of_adamw_by_hand():
    torch.manual_seed(0)
    module = nn.Linear(3, 1, bias=False).double()
    before = module.weight.detach().clone()
    optimizer = build(module, OptimizerConfig(lr=0.1))
    module.weight.grad = gradient = torch.randn_like(before)
    optimizer.step()
    step = (
        0.1 * gradient / (gradient.abs() + 1e-8)
    )  # the first step's moments are the gradient, corrected for bias
    torch.testing.assert_close(module.weight.detach(), before * (1 - 0.1 * 0.01) - step)


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"betas": (0.9, 1.0)}, {"warmup": 0}, {"min_lr": 1.0}, {"eps": 0.0}]
)
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(DigitError, match="optimizer"):
        OptimizerConfig(**wrong)


def test_sgd_is_nesterovs_momentum_with_decay():
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    twin = torch.nn.Linear(3, 2)
    twin.load_state_dict(module.state_dict())
    ours = build(module, OptimizerConfig(kind="sgd", lr=0.1, betas=(0.9, 0.0), weight_decay=0.01))
    reference = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for _ in range(3):
        for each, optimizer in ((module, ours), (twin, reference)):
            optimizer.zero_grad()
            each(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
    assert torch.equal(module.weight, twin.weight)

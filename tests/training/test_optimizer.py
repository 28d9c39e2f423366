import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from digit.errors import DigitError
from digit.files import read_json
from digit.nn.batch import split
from digit.training import checkpoint
from digit.training.config import OptimizerConfig, TrainConfig, accumulation
from digit.training.loop import train
from digit.training.optimizer import build, epsilon, learning_rate, prepare
from digit.training.update import Updater


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


def test_a_trapezoid_falls_over_the_last_three_tenths():
    config = OptimizerConfig(lr=1e-3, schedule="trapezoid", warmup=2, warmup_from=0.0, min_lr=1e-4)
    found = [learning_rate(step, config, 20) for step in (0, 1, 2, 14, 17, 19, 20, 30)]
    assert found == pytest.approx([0.0, 5e-4, 1e-3, 1e-3, 5.5e-4, 2.5e-4, 1e-4, 1e-4])


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
    (name,) = wrong
    with pytest.raises(DigitError, match=rf"^(--)?{name}\b.*(give|needs)"):
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


GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures/schedules_and_optimizer.json").read_text())


@pytest.mark.parametrize("name", ["inverse_sqrt", "inverse_sqrt_stage2", "cosine_linear_probe"])
def test_learning_rates_of_the_reference(name):
    golden = GOLDEN["schedules"][name]
    schedule, total = (
        ("cosine", golden["max_update"]) if "max_update" in golden else ("inverse_sqrt", 250_000)
    )
    config = OptimizerConfig(
        lr=golden["lr"],
        schedule=schedule,
        warmup=golden["warmup_updates"],
        warmup_from=golden.get("warmup_init_lr", 0.0),
        min_lr=golden.get("min_lr", 0.0),
    )
    compared = 0
    for step, value in golden["values"].items():
        if schedule == "cosine" and int(step) == total:
            # The reference begins a second period here, which no update uses: ours has come to its end.
            assert learning_rate(total, config, total) == 0.0 and value == pytest.approx(0.04)
            continue
        assert learning_rate(int(step), config, total) == pytest.approx(value, rel=1e-12, abs=0)
        compared += 1
    assert compared >= 9


def test_the_cosine_has_a_warm_up_before_its_period():
    config = OptimizerConfig(lr=0.4, schedule="cosine", warmup=10, warmup_from=0.0)
    assert learning_rate(5, config, 110) == pytest.approx(0.2)
    assert learning_rate(60, config, 110) == pytest.approx(0.2)


class Slope(nn.Module):
    """Its gradient is the batch's mean row, however small: moments as near to eps as the test likes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return (batch * self.weight).sum(1).mean()


def slopes(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    sizes = torch.logspace(-10, -2, 6, dtype=torch.float64)
    return sizes * (1 + torch.rand(2, 6, dtype=torch.float64, generator=generator))


def fairseq_adam(steps: int, config: OptimizerConfig) -> torch.Tensor:
    """The update as fairseq 0.12.2 defines it, in float64."""
    weight = Slope().weight.detach().clone()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    (b1, b2), wd = config.betas, config.weight_decay
    for t in range(1, steps + 1):
        lr, gradient = learning_rate(t - 1, config, steps), slopes(t - 1).mean(0)
        first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
        weight = weight - lr * wd * weight
        size = lr * math.sqrt(1 - b2**t) / (1 - b1**t)
        weight = weight - size * first / (second.sqrt() + config.eps)
    return weight


@pytest.mark.parametrize("stops", [(), (2,), (1, 4)], ids=str)
def test_reference_epsilon_is_fairseqs_adam_also_after_a_resume(tmp_path, stops):
    adam = OptimizerConfig(lr=1e-2, warmup=2, epsilon="reference")
    config = TrainConfig(steps=5, batch=2, clip=None, optimizer=adam, save_every=1)
    for stop in stops:

        def halted(step, stop=stop):
            if step == stop:
                raise KeyboardInterrupt
            return slopes(step)

        with pytest.raises(KeyboardInterrupt):
            train(Slope(), halted, config, tmp_path, device="cpu", progress=False)
    stage = train(Slope(), slopes, config, tmp_path, device="cpu", progress=False)
    expected = fairseq_adam(5, adam)
    torch.testing.assert_close(stage.weight.detach(), expected, rtol=1e-12, atol=1e-14)


def test_corrected_epsilon_differs_where_gradients_are_tiny(tmp_path):
    adam = OptimizerConfig(lr=1e-2, warmup=2)
    config = TrainConfig(steps=5, batch=2, clip=None, optimizer=adam)
    stage = train(Slope(), slopes, config, tmp_path, device="cpu", progress=False)
    difference = (stage.weight.detach() - fairseq_adam(5, adam)).abs()
    assert difference.max() > 1e-3  # a tenth of an update
    assert difference[-1] < 1e-3 * difference.max()  # gradients far above eps do not care


@pytest.mark.parametrize("clip", [0.3, 1e9])
def test_a_fused_optimizer_clips_on_its_way(clip):
    """The norm, the gradients after the update and the weights are those of clip_grads_with_norm_."""
    made = []
    for fused in (False, True):
        torch.manual_seed(0)
        stage = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
        stage.loss = lambda batch, stage=stage: stage(batch).square().sum() * 10
        config = TrainConfig(steps=9, batch=3, clip=clip, optimizer=OptimizerConfig(lr=1e-2, warmup=1))
        updater = Updater(stage, config, torch.device("cpu"))
        if fused:
            updater.optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-2, betas=(0.9, 0.98), fused=True)
            updater._clips_itself = True
        for step in range(4):
            updater.update(torch.randn(3, 6, generator=torch.Generator().manual_seed(step)))
        updater.read_losses("none")
        made.append((updater.norms, [p.grad for p in updater.trainable], list(stage.parameters())))
    torch.testing.assert_close(made[1], made[0], rtol=1e-5, atol=1e-7)
    assert made[0][0][0] > 0.3


def test_epsilon_is_a_function_of_the_step():
    reference = OptimizerConfig(epsilon="reference")
    assert epsilon(0, reference) == pytest.approx(1e-8 / math.sqrt(0.02))
    assert epsilon(100_000, reference) == pytest.approx(1e-8)
    assert epsilon(0, OptimizerConfig()) == 1e-8
    module = nn.Linear(3, 2)
    optimizer = build(module, reference)
    prepare(optimizer, reference, step=7, total=9)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["eps"]) == (learning_rate(7, reference, 9), epsilon(7, reference))


def test_a_state_from_before_a_setting_existed_was_trained_with_its_default(tmp_path):
    config = TrainConfig(steps=2, batch=2, optimizer=OptimizerConfig(lr=1e-2, warmup=1))
    train(Slope(), slopes, config, tmp_path, device="cpu", progress=False)
    state = tmp_path / "state/step-0000002/state.json"
    value = read_json(state)
    del value["config"]["optimizer"]["epsilon"], value["config"]["optimizer"]["nesterov"]
    state.write_text(json.dumps(value))
    found = checkpoint.load(state.parent)
    assert Updater(Slope(), config, torch.device("cpu")).restore(found) == []
    other = replace(config, optimizer=replace(config.optimizer, epsilon="reference"))
    (sentence,) = Updater(Slope(), other, torch.device("cpu")).restore(checkpoint.load(state.parent))
    assert sentence == "epsilon is reference from here, it was corrected"


def test_sgd_without_nesterov_is_plain_momentum():
    module = nn.Linear(2, 1, bias=False).double()
    before = module.weight.detach().clone()
    config = OptimizerConfig(kind="sgd", lr=0.1, betas=(0.9, 0.0), weight_decay=0.0, nesterov=False)
    optimizer = build(module, config)
    gradient = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    for _ in range(3):
        module.weight.grad = gradient.clone()
        optimizer.step()
    velocity = 1 + 1.9 + 2.71  # the sum of three steps' momenta
    torch.testing.assert_close(module.weight.detach(), before - 0.1 * velocity * gradient)
    with pytest.raises(DigitError, match="momentum"):
        OptimizerConfig(kind="sgd", betas=(0.0, 0.0))


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "passes"),
    [
        *[(2048, 256, 1, 8), (2048, 256, 8, 1), (2048, 128, 8, 2), (2048, 128, 16, 1), (2048, 256, 16, 1)],
        *[(6, None, 1, 1), (6, 4, 1, 2), (6, 4, 3, 1)],
    ],
)
def test_accumulation(batch, micro, processes, passes):
    config = TrainConfig(steps=1, batch=batch, micro_batch=micro)
    assert accumulation(config, processes) == passes
    if processes == 1:  # what the loop does
        assert len(split(torch.zeros(batch, 1), micro)) == passes


@pytest.mark.parametrize("processes", [0, 3])
def test_a_batch_that_does_not_divide_among_processes(processes):
    with pytest.raises(DigitError, match=f"2048 does not divide among {processes}"):
        accumulation(TrainConfig(steps=1, batch=2048), processes)

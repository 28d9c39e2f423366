"""The estimate of memory and speed against what was measured (bench/results)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from digit.nn.batch import CodeBatch
from digit.prior import Prior
from digit.run.recipes import RECIPES
from digit.training import estimate
from digit.training.config import TrainConfig
from digit.training.estimate import GIB

from .stages import Regressor, data

RESULTS = Path(__file__).parents[2] / "bench" / "results"
TRAIN = json.loads((RESULTS / "train-h100.json").read_text())["rows"]
RECIPE = json.loads((RESULTS / "recipes.json").read_text())["recipes"]


def built(name, layers=None):
    shape = RECIPES[name].model
    with torch.device("meta"):
        stage = Prior(replace(shape, layers=layers or shape.layers))
    return stage, CodeBatch(torch.empty(2, shape.length, dtype=torch.int64))


@pytest.mark.parametrize(
    ("row", "name", "micro", "layers", "error"),
    [
        ("base, 256", "base", 256, None, 0.01),
        ("large, 128", "large", 128, None, 0.01),
        ("screen, package", "base", 128, 4, 0.02),
    ],
)
def test_compiled_updates_take_what_was_measured_within_two_per_cent(row, name, micro, layers, error):
    stage, batch = built(name, layers)
    config = replace(RECIPES[name].training, batch=micro, micro_batch=None)
    parts = estimate.memory(stage, batch, config, processes=1)
    assert parts.counted / GIB == pytest.approx(TRAIN[row]["peak_gib"], rel=error)


def test_speeds_are_the_measured_ones():
    for place, name in enumerate(("ablation_39m", "base", "large")):
        shape = RECIPES[name].model
        products = 12 * shape.layers * shape.width**2 + shape.codes * shape.width
        square = 2 * shape.layers * shape.length * shape.width  # of attention, half of it
        flops = shape.length * (6 * products + 3 * square)
        for mode in ("eager", "compiled"):
            (size, share), row = estimate.MEASURED_MFU[mode][place], RECIPE[name][mode]
            assert row["parameters"] / 1e6 == pytest.approx(size, abs=0.05)
            assert flops * row["images_per_second"] / estimate.peak("H200") == pytest.approx(share, abs=1e-3)
    for key, (size, share) in zip(("base, 256", "large, 128"), estimate.MEASURED_MFU["kernels"], strict=True):
        assert TRAIN[key]["way"]["kernels"] == "on" and TRAIN[key]["way"]["compiled"] and size > 200
        assert TRAIN[key]["mfu"] == pytest.approx(share, abs=1e-3)
    assert estimate.assumed_mfu(10**6, "compiled") == 0.217
    assert 0.44 < estimate.assumed_mfu(400 * 10**6, "compiled") < 0.479
    assert estimate.assumed_mfu(218_600_000, "kernels") == 0.468


def test_a_linear_layer_by_hand():
    stage = torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False))
    stage.loss = lambda batch: stage(batch).square().sum()
    for precision, size in (("fp32", 4), ("bf16", 2)):
        config = TrainConfig(steps=1, batch=100, precision=precision)
        kept = estimate.kept_of_a_sample(stage, torch.zeros(2, 8), config)
        assert kept == (8 + 16) * size  # the product keeps its input, the square its own
        parts = estimate.memory(stage, torch.zeros(2, 8), config, processes=1)
        assert parts.activations == 100 * kept and parts.moments == 2 * 8 * 16 * 4


def test_masks_are_kept_where_nothing_is_compiled():
    stage, batch = built("ablation_39m", 2)
    config = RECIPES["ablation_39m"].training
    compiled, eager = (
        estimate.kept_of_a_sample(stage, batch, replace(config, compile=compile)) for compile in (True, False)
    )
    shape = stage.config
    assert eager - compiled == (2 * shape.layers + 1) * shape.width * shape.length


def test_counting_changes_nothing():
    stage = Regressor().train()
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    random = torch.get_rng_state()
    assert estimate.memory(stage, data(0), TrainConfig(steps=1, batch=4), processes=1) is not None
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert stage.metrics == {} and all(parameter.grad is None for parameter in stage.parameters())
    assert {parameter.device.type for parameter in stage.parameters()} == {"cpu"}


def test_a_loss_that_asks_for_values_is_not_counted():
    class Asks(Regressor):
        def loss(self, batch):
            loss = super().loss(batch)
            return loss * float(loss.detach())

    assert estimate.memory(Asks(), data(0), TrainConfig(steps=1, batch=4), processes=1) is None


def test_shared_states_are_a_part_each_and_the_working_layers():
    stage, batch = built("large", 6)
    config = RECIPES["large"].training
    alone = estimate.memory(stage, batch, config, processes=1)
    shared = estimate.memory(stage, batch, replace(config, sharded=True), processes=8)
    parameters = 4 * sum(p.numel() for p in stage.parameters())
    assert alone.weights == 1.5 * parameters  # with their copies in bf16
    assert alone.gradients == parameters and alone.moments == 2 * parameters
    assert shared.weights == -(-parameters // 8)
    layer = 4 * sum(p.numel() for p in stage.transformer.blocks[0].parameters())
    assert shared.gathered == 2 * layer + (parameters - 6 * layer) // 2
    assert shared.total < alone.total
    apart = estimate.memory(stage, batch, replace(config, batch=4096), processes=8)
    assert apart.gradients == 2 * parameters  # two micro-batches in each
    assert estimate.state_parts(stage, config) == (parameters, 2 * parameters, 0)


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    stage, batch = built("large", 6)
    config = replace(RECIPES["large"].training, batch=1 << 20)

    def total(micro):
        return estimate.memory(stage, batch, replace(config, micro_batch=micro), processes=1)

    most = estimate.largest_micro_batch(total(1024), 1024, "H100")
    assert total(most).total <= estimate.MEMORY["H100"] * GIB < total(most + 1).total

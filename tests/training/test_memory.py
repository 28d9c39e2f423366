"""The estimate of memory against what torch.cuda.max_memory_allocated said (bench/results)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import digit.nn.cross_entropy
import digit.prior
import digit.renderer
import digit.renderer_masked
from digit.nn.batch import CodeBatch
from digit.prior import Prior
from digit.renderer import Renderer
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.run.recipes import RECIPES
from digit.training import estimate
from digit.training.estimate import GIB
from digit.training.memory import Held, held

from .stages import Regressor, data

RESULTS = Path(__file__).parents[2] / "bench" / "results"
TRAIN = json.loads((RESULTS / "train-h100.json").read_text())["rows"]
RECIPE = json.loads((RESULTS / "recipes.json").read_text())["recipes"]


def built(name, layers=None):
    shape = RECIPES[name].model
    shape = replace(shape, layers=layers or shape.layers)
    kind = Prior if name not in ("renderer_ar", "renderer_masked") else Renderer
    with torch.device("meta"):
        stage = MaskedRenderer(shape) if isinstance(shape, MaskedConfig) else kind(shape)
    codes = torch.empty(1, shape.length, dtype=torch.int64)
    vq_length = getattr(shape, "vq_length", None)
    return stage, CodeBatch(codes, None, None if vq_length is None else codes.new_empty(1, vq_length))


def gib(name, *, micro, compiled, layers=None):
    stage, batch = built(name, layers)
    config = replace(RECIPES[name].training, batch=micro, micro_batch=None, compile=compiled)
    found = estimate.measure(stage, batch, config, processes=1)
    return estimate.memory(stage, found, config, processes=1, sharded=False).counted / GIB


@pytest.mark.parametrize(
    ("row", "name", "micro", "layers", "error"),
    [
        ("base, 256", "base", 256, None, 0.01),
        ("large, 128", "large", 128, None, 0.01),
        ("screen, package", "base", 128, 4, 0.02),  # a quarter of the depth
    ],
)
def test_compiled_updates(row, name, micro, layers, error):
    measured = TRAIN[row]["peak_gib"]
    assert gib(name, micro=micro, compiled=True, layers=layers) == pytest.approx(measured, rel=error)


@pytest.mark.parametrize("name", ["renderer_ar", "renderer_masked", "ablation_39m"])
def test_eager_updates_as_they_were_when_they_were_measured(name, monkeypatch):
    # Before the residual stream was bf16 and the gradient made with the loss.
    for module in (digit.prior, digit.renderer, digit.renderer_masked):
        monkeypatch.setattr(module, "stream", lambda x: x)
    monkeypatch.setattr(digit.nn.cross_entropy, "fused", lambda x: False)
    measured = RECIPE[name]["eager"]
    found = gib(name, micro=measured["micro_batch"], compiled=False)
    assert found == pytest.approx(measured["memory_gib"], rel=0.02)


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
    found = held(stage, torch.zeros(1, 8), size=100, bf16=False, compiled=False, accumulates=True)
    output = 100 * 16 * 4
    assert found.activations == output + 4  # what square keeps, and the loss itself; the input was there
    assert found.flops == 2 * 2 * 8 * 16  # the input needs no gradient
    assert found.working >= output  # its gradient


def test_half_precision_keeps_half():
    stage, batch = built("ablation_39m", 2)
    options = {"size": 8, "compiled": False, "accumulates": True}
    half, whole = (held(stage, batch, bf16=bf16, **options) for bf16 in (True, False))
    assert half.activations < 0.75 * whole.activations


def test_counting_changes_nothing():
    stage = Regressor().train()
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    random, autocast = torch.get_rng_state(), torch.is_autocast_enabled("cuda")
    assert held(stage, data(0), size=4, bf16=True, compiled=True, accumulates=True) is not None
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_autocast_enabled("cuda") == autocast
    assert stage.metrics == {} and all(parameter.grad is None for parameter in stage.parameters())
    assert {parameter.device.type for parameter in stage.parameters()} == {"cpu"}


def test_a_loss_that_asks_for_values_is_not_counted():
    class Asks(Regressor):
        def loss(self, batch):
            loss = super().loss(batch)
            return loss * float(loss.detach())

    assert held(Asks(), data(0), size=4, bf16=True, compiled=False, accumulates=True) is None


def test_shared_states_are_a_part_each_and_the_working_layers():
    stage, _ = built("large")
    config = RECIPES["large"].training
    found = Held(10**9, 10**8, 10**7, 1.0)
    alone = estimate.memory(stage, found, config, processes=1, sharded=False)
    shared = estimate.memory(stage, found, config, processes=8, sharded=True)
    parameters = 4 * sum(p.numel() for p in stage.parameters())
    assert alone.weights == alone.gradients == parameters and alone.moments == 2 * parameters
    assert shared.weights == -(-alone.weights // 8)
    layer = 4 * sum(p.numel() for p in stage.transformer.blocks[0].parameters())
    assert shared.communication == 2 * layer + (parameters - 24 * layer) // 2
    assert shared.activations == alone.activations - 10**7
    assert shared.total < alone.total
    apart = estimate.memory(stage, found, replace(config, batch=4096), processes=8, sharded=False)
    assert (apart.communication, alone.communication) == (parameters, 0)  # two micro-batches in each
    assert estimate.state_bytes(stage, config) == 3 * parameters


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    stage, batch = built("large", 6)
    config = replace(RECIPES["large"].training, compile=True)

    def total(micro):
        changed = replace(config, micro_batch=micro)
        found = estimate.measure(stage, batch, changed, processes=1)
        return estimate.memory(stage, found, changed, processes=1, sharded=False)

    most = estimate.largest_micro_batch(total(1024), 1024, "H100")
    assert total(most).total <= estimate.MEMORY["H100"] * GIB < total(int(1.03 * most)).total

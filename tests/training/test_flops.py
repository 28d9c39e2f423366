from dataclasses import replace

import pytest
import torch
import torch.distributed
from torch import nn

from digit.nn.batch import CodeBatch
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.training.config import OptimizerConfig
from digit.training.flops import flops_per_sample, peak_flops
from digit.training.log import read
from digit.training.loop import TrainConfig, train

from .stages import Regressor, data, make

BASE = PriorConfig(codes=8192, length=256)


def codes(length, rows=4):
    return torch.zeros(rows, length, dtype=torch.int64)


def test_the_base_prior_by_hand():
    with torch.device("meta"):
        prior = Prior(BASE)
    weights = 16 * 12 * 1024**2 + 8192 * 1024
    attention = 16 * 2 * 256 * 1024  # a position: queries by keys and weights by values, half the square
    expected = 256 * (6 * weights + 3 * attention)
    assert flops_per_sample(prior, CodeBatch(codes(256))) == expected
    assert expected == pytest.approx(328.6e9, rel=1e-3)


def test_all_of_the_square_counts_where_every_position_reads_all():
    shape = {"codes": 16, "length": 8, "vq_codes": 32, "vq_length": 8, "width": 16, "layers": 2, "heads": 2}
    batch = CodeBatch(codes(8), None, codes(8))
    with torch.device("meta"):
        causal, masked = Renderer(RendererConfig(**shape)), MaskedRenderer(MaskedConfig(**shape))
    assert flops_per_sample(causal, batch) == 3 * (
        2 * 2 * 12 * 16**2 * 16 + 2 * 2 * 16 * 16 * 16 + 2 * 8 * 16 * 32
    )
    head, square = 2 * 8 * 16 * 32, 2 * 4 * 17 * 17 * 16
    assert flops_per_sample(masked, batch) == 3 * (2 * 2 * 12 * 16**2 * 17 + square + head)


def test_counting_changes_nothing():
    stage = Regressor().train()
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    random = torch.get_rng_state()
    assert flops_per_sample(stage, data(0)) == 3 * 2 * (4 * 8 + 8 * 2) - 2 * 4 * 8  # no gradient of the input
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert stage.metrics == {} and all(parameter.grad is None for parameter in stage.parameters())
    assert {parameter.device.type for parameter in stage.parameters()} == {"cpu"}


def test_a_loss_that_asks_for_values_is_not_counted():
    class Asks(Regressor):
        def loss(self, batch):
            loss = super().loss(batch)
            return loss * float(loss.detach())

    assert flops_per_sample(Asks(), data(0)) is None


def test_a_loss_that_asks_for_a_gpu_is_not_counted(tmp_path):
    """SyncBatchNorm refuses other devices where processes are joined, by another kind of error."""
    stage = nn.SyncBatchNorm.convert_sync_batchnorm(make())
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert flops_per_sample(stage.train(), data(0, 8)) is None
    finally:
        torch.distributed.destroy_process_group()


def test_boards(monkeypatch):
    assert peak_flops(torch.device("cpu")) is None
    for name, peak in (
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Some other", None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda", 0)) == peak


def test_the_log_has_the_speed_of_the_run(tmp_path):
    prior = Prior(replace(BASE, codes=16, length=4, width=8, layers=1, heads=2))
    flops = flops_per_sample(prior, CodeBatch(codes(4)))
    config = TrainConfig(steps=3, batch=2, log_every=1, optimizer=OptimizerConfig(warmup=3))
    train(prior, lambda step: CodeBatch(codes(4, 2)), config, tmp_path, device="cpu", progress=False)
    assert flops is not None
    for record in read(tmp_path / "log.jsonl"):
        assert record["tflops"] == pytest.approx(record["samples_per_second"] * flops / 1e12)
        assert 0 <= record["stall"] <= 1 and "mfu" not in record

"""The experiments: their stages learn, and the published page is what the result file gives."""

from pathlib import Path

import pytest
import torch
from cifar10.compute import matched_steps
from cifar10.report import END, MARK, page_of, short
from cifar10.reproduction import merged
from cifar10.self_supervision import SelfSupervision, SelfSupervisionConfig
from cifar10.vit import ViTConfig
from measuring.found import Found

from digit.files import read_json
from digit.nn.batch import PixelBatch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"


def result() -> dict:
    return read_json(RESULTS / "cifar10.json")


def test_the_published_page_is_the_result_file():
    assert page_of(RESULTS / "cifar10.json") == (ROOT / "docs" / "reproduction.md").read_text()


def test_the_readmes_table_is_the_result_file():
    text = (ROOT / "README.md").read_text()
    between = text.split(MARK, 1)[1].split("\n", 1)[1].split(END)[0]
    assert [line for line in between.splitlines() if line] == short(Found(RESULTS / "measurements"))


def test_matched_steps_give_equal_compute():
    same = matched_steps(1000, codes=16, length=8, vq_codes=16, vq_length=8)
    assert same > 1000  # prior and renderer together cost more than a prior alone
    assert matched_steps(2000, codes=16, length=8, vq_codes=16, vq_length=8) == pytest.approx(2 * same, abs=1)


def test_merging_keeps_the_best_and_every_try():
    one, two = result(), result()
    name = next(iter(one["systems"]))
    entry = two["systems"][name]["unconditional"]
    distance = next(key for key in entry if key.startswith("FD-"))
    entry[distance] = 0.5
    both = merged([one, two])
    assert both["systems"][name]["unconditional"][distance] == 0.5
    tries = one["systems"][name]["unconditional"]["tries"]
    assert len(both["systems"][name]["unconditional"]["tries"]) == 2 * len(tries)


@pytest.mark.parametrize("objective", ["mocov3", "dino"])
def test_self_supervision_trains_the_student_and_moves_the_teacher(objective):
    torch.manual_seed(0)
    vit = ViTConfig(width=64, depth=2, heads=1)
    stage = SelfSupervision(SelfSupervisionConfig(steps=10, vit=vit, objective=objective, prototypes=32))
    batch = PixelBatch(torch.rand(8, 3, 32, 32), None)
    stage.loss(batch).backward()
    assert all(p.grad is None for p in stage.teacher.parameters())
    weight = stage.student.vit.blocks[0].attn.qkv.weight
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    with torch.no_grad():
        weight.add_(1.0)
    before = stage.teacher.vit.blocks[0].attn.qkv.weight.clone()
    stage.loss(batch)
    assert (stage.teacher.vit.blocks[0].attn.qkv.weight - before).abs().sum() > 0


def test_distillation_reads_the_teachers_tokens():
    from distillation import Distillation

    from digit.features import Encoder, encoder_config

    torch.manual_seed(0)
    settings = encoder_config(
        "vit_tiny_patch16_224", image_size=32, block=-1,
        arguments={"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 1},
    )  # fmt: skip
    stage = Distillation(Encoder(settings), ViTConfig(width=64, depth=1, heads=1)).eval()
    batch = PixelBatch(torch.rand(4, 3, 32, 32), None)
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=3e-3)
    first = float(stage.loss(batch).detach())
    for _ in range(20):
        optimizer.zero_grad()
        stage.loss(batch).backward()
        optimizer.step()
    assert float(stage.loss(batch).detach()) < 0.9 * first
    assert all(p.grad is None for p in stage.teacher.parameters())

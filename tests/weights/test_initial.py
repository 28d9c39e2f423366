"""Weights to start from: rows go where names and places say, and what does not fit is refused."""

import pytest
import torch

from digit.errors import DigitError, LineageError
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_flow import FlowConfig, FlowRenderer
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig
from digit.weights.artifact import save
from digit.weights.initial import config_of, start_from

SMALL = {"width": 16, "layers": 2, "heads": 2}
NAMES = ["ant", "bee", "cow"]


def prior(**other):
    return Prior(PriorConfig(**{"codes": 8, "length": 16, "classes": 3, **SMALL, **other}))


def renderer(kind=Renderer, config=RendererConfig, **other):
    shape = {"codes": 8, "length": 16, "vq_codes": 6, "vq_length": 16, **SMALL, **other}
    return kind(config(**shape))


def masked(**other):
    return renderer(MaskedRenderer, MaskedConfig, **other)


def flow(**other):
    shape = {"codes": 8, "length": 16, "image_size": 16, "classes": 3, **SMALL, **other}
    return FlowRenderer(FlowConfig(**shape))


def vqgan(**other):
    shape = {"image_size": 16, "width": 8, "multipliers": (1, 2), "blocks": 1, "codes": 16, "code_dim": 4}
    return VQGAN(VQGANConfig(**{**shape, **other}))


def started(tmp_path, before, stage, classes=NAMES, names=NAMES, lineage=None, made_with=None):
    save(before, tmp_path / "before", classes=names, lineage=made_with)
    return start_from(stage, tmp_path / "before", classes=classes, lineage=lineage or {})[1]


@pytest.mark.parametrize("make", [prior, renderer, masked, flow, vqgan])
def test_a_stage_alike_takes_everything(tmp_path, make):
    before, stage = make(), make()
    (line,) = started(tmp_path, before, stage)[:1]
    assert "numbers" in line
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, stage.state_dict()[name]), name
    assert config_of(tmp_path / "before", line.split(", ")[1].split()[0]) == stage.config


def test_classes_go_by_name_and_new_ones_are_drawn(tmp_path):
    before, stage = prior(), prior(classes=4)
    drawn = stage.start_embedding.weight.detach().clone()
    lines = started(tmp_path, before, stage, classes=["dog", "cow", "ant", "eel"])
    rows, old = stage.start_embedding.weight, before.start_embedding.weight
    assert torch.equal(rows[[1, 2, 4]], old[[2, 0, 3]]) and torch.equal(rows[[0, 3]], drawn[[0, 3]])
    assert lines[1:] == [
        "classes by name: cow, ant",
        "classes drawn newly: dog, eel",
        "classes left out: bee",
    ]


def test_classes_without_names_are_not_guessed(tmp_path):
    before, stage = prior(), prior()
    drawn = stage.start_embedding.weight.detach().clone()
    lines = started(tmp_path, before, stage, names=[])
    assert torch.equal(stage.start_embedding.weight[:3], drawn[:3])
    assert "classes left out: 3, which have no names" in lines


@pytest.mark.parametrize(("make", "lead"), [(prior, 1), (renderer, 0), (masked, 0), (flow, 0)])
def test_places_are_resized_on_their_square(tmp_path, make, lead):
    """A table that rises from left to right and from top to bottom still does, at more places."""
    more: dict = {"length": 64} | ({"image_size": 32} if make is flow else {"vq_length": 64})
    before, stage = (
        make(),
        make(**{name: more[name] for name in more if make is not prior or name == "length"}),
    )
    for name in ("position_embedding", "vq_position_embedding"):
        table = getattr(before, name, None)
        if table is not None:
            row = torch.arange(len(table.weight)) - (lead if name.startswith("p") else 1)
            table.weight.data = torch.stack((row // 4, row % 4), 1).float().repeat(1, 8)
    lines = started(tmp_path, before, stage)
    assert any(line == "position_embedding: resized from 4 x 4 to 8 x 8" for line in lines)
    weight = stage.position_embedding.weight.detach()
    square = weight[lead:].view(8, 8, -1)
    assert torch.equal(weight[:lead], before.position_embedding.weight[:lead])
    assert (square[1:, :, 0] > square[:-1, :, 0]).all() and (square[:, 1:, 1] > square[:, :-1, 1]).all()
    if make in (renderer, masked):
        weight, old = stage.vq_position_embedding.weight.detach(), before.vq_position_embedding.weight
        assert torch.equal(weight[0], old[0]) and len(weight) == 64 + (make is masked)
        places = weight[1:57].view(7, 8, -1)
        assert (places[1:, :, 0] > places[:-1, :, 0]).all() and (places[:, 1:, 1] > places[:, :-1, 1]).all()


def test_blocks_more_or_less_are_told(tmp_path):
    deeper = prior(layers=3)
    drawn = deeper.transformer.blocks[2].mlp_norm.weight.detach().clone()
    lines = started(tmp_path, prior(), deeper)
    assert any(line.startswith("drawn newly: transformer.blocks.2.") for line in lines)
    assert torch.equal(deeper.transformer.blocks[2].mlp_norm.weight, drawn)
    lines = started(tmp_path, prior(), prior(layers=1))
    assert any(line.startswith("left out: transformer.blocks.1.") for line in lines)


def test_symbols_of_imported_models_are_left_out(tmp_path):
    before, stage = prior(specials=5), prior()
    lines = started(tmp_path, before, stage)
    assert torch.equal(stage.projection.weight, before.projection.weight[5:])
    assert "left out: 5 symbols besides codes" in lines


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (lambda: prior(codes=9), "codes 8, not 9"),
        (lambda: prior(width=32), "width 16, not 32"),
        (lambda: renderer(), "where a renderer is needed"),
        (lambda: prior(length=15), "16 places are not resized to 15"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, stage, words):
    with pytest.raises(DigitError, match=words) as error:
        started(tmp_path, prior(), stage())
    assert "\n" not in str(error.value)


def test_codes_of_something_else_are_refused(tmp_path):
    for lineage, words in (
        ({"tokenizer": "b" * 64}, "belongs to the tokenizer"),
        ({"vqgan": "b" * 64}, "knows codes of tokenizer, these are of vqgan"),
    ):
        with pytest.raises(LineageError, match=words):
            started(tmp_path, prior(), prior(), made_with={"tokenizer": "a" * 64}, lineage=lineage)
    assert started(tmp_path, prior(), prior(), made_with={"prior to start from": "c" * 64}, lineage=lineage)

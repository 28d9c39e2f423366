"""digit.request: seeds, labels and settings of a call, resolved."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from digit.errors import DigitError
from digit.nn.sampling import DRAW, SamplerConfig
from digit.request import at_once, resolve, seeds_and_labels
from digit.weights.model_folder import PipelineSampling

OWN = PipelineSampling(
    prior=SamplerConfig(top_p=0.9, guidance=2.0),
    prior_unconditional=SamplerConfig(top_k=7),
    renderer=SamplerConfig(temperature=0.8),
    masked=SamplerConfig(temperature=0.6),
    masked_steps=5,
)
NAMES = ("cat", "dog", "ship")


def rows(labels=None, num=None, seeds=None, unconditional=False, classes=3):
    how = {"unconditional": unconditional, "names": NAMES[:classes], "classes": classes}
    return seeds_and_labels(labels, num, seeds, **how)


def test_seeds_count_from_0_and_labels_repeat_in_turn():
    assert rows() == ([0], [0])
    assert rows(num=4) == ([0, 1, 2, 3], [0, 1, 2, 0])
    assert rows(["cat", 2], num=5) == ([0, 1, 2, 3, 4], [0, 2, 0, 2, 0])
    assert rows("ship", seeds=range(7, 9)) == ([7, 8], [2, 2])
    assert rows(["1", "dog"]) == ([0, 1], [1, 1])


def test_a_class_follows_from_its_seed_whatever_the_others():
    draw = random.Random(0)
    for _ in range(100):
        seeds = draw.sample(range(-50, 50), draw.randint(1, 20))
        assert rows(seeds=seeds) == (seeds, [seed % 3 for seed in seeds])
        assert rows(seeds=seeds, unconditional=True) == (seeds, None)
        assert (
            rows(seeds=seeds, classes=0) == rows(seeds=seeds, classes=0, unconditional=True) == (seeds, None)
        )
    assert rows(seeds=[-1]) == ([-1], [2])  # never below 0


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ({"num": 2, "seeds": [1]}, "does not fit 1 seeds"),
        ({"seeds": []}, "seeds is empty"),
        ({"labels": []}, "empty"),
        ({"labels": [0, 1, 2], "seeds": [5, 6]}, "3 classes for 2 pictures: give at most one per picture"),
        ({"labels": ["cat", "dog"], "num": 1}, "2 classes for 1 picture: give"),
        ({"labels": "cat", "unconditional": True}, "exclude each other"),
        ({"labels": [3]}, "choose 0 to 2"),
        ({"labels": "-1"}, "out of range"),
        ({"labels": "cats"}, "choose from cat, dog, ship"),
    ],
)
def test_what_contradicts_or_is_unknown_is_refused(call, problem):
    with pytest.raises(DigitError, match=problem):
        rows(**call)


def test_what_a_call_leaves_out_is_the_models_own():
    given = {"temperature": None, "top_k": 3, "top_p": None}
    labelled = resolve(OWN, [0], [1], renderer="autoregressive", prior=given, rendering=given)
    assert labelled.prior == SamplerConfig(top_p=0.9, guidance=2.0, top_k=3)
    assert labelled.rendering == SamplerConfig(temperature=0.8, top_k=3)
    assert list(labelled.settings) == ["draw", "prior", "renderer", "autoregressive"]
    assert labelled.settings["draw"] == DRAW
    free = resolve(OWN, [0], None, renderer="masked", prior={}, rendering=given, noise=0.0)
    assert free.prior == SamplerConfig(top_k=7) and free.rendering == SamplerConfig(temperature=0.6)
    assert free.settings["masked"]["steps"] == 5 and free.settings["masked"]["noise"] == 0.0
    alone = resolve(OWN, [0], None, renderer=None, prior={}, rendering={})
    assert alone.settings["renderer"] is None and list(alone.settings) == ["draw", "prior", "renderer"]


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(DigitError, match="guidance needs classes: leave out guidance, or unconditional"):
        resolve(OWN, [0], None, renderer=None, prior={"guidance": 2.0}, rendering={})
    for noise in (-1.0, float("inf"), float("nan")):
        with pytest.raises(DigitError, match="noise"):
            resolve(OWN, [0], [1], renderer="masked", prior={}, rendering={}, noise=noise)
    with pytest.raises(DigitError):
        resolve(OWN, [0], [1], renderer="masked", prior={}, rendering={"top_p": 2.0})


@pytest.mark.parametrize(
    ("gibibytes", "pictures", "batch"), [(80, 16, 64), (80, 500, 500), (80, 50_000, 1024), (24, 50_000, 384)]
)
def test_batches_of_a_gpu_are_large_and_follow_its_memory(monkeypatch, gibibytes, pictures, batch):
    assert at_once(torch.device("cpu"), pictures) == 64
    card = SimpleNamespace(total_memory=gibibytes << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert at_once(torch.device("cuda"), pictures) == batch


@pytest.mark.parametrize("renderer", ["autoregressive", "masked"])
def test_guidance_of_a_renderer_is_its_own_and_none_without_labels(renderer):
    guided = replace(OWN, renderer=SamplerConfig(guidance=1.5), masked=SamplerConfig(guidance=1.5))

    def of(labels, asked=None):
        rendering = {"guidance": asked}
        return resolve(guided, [0], labels, renderer=renderer, prior={}, rendering=rendering).rendering

    assert of([1]).guidance == 1.5 and of([1], 3.0).guidance == 3.0 and of([1], 1.0).guidance == 1.0
    assert of(None).guidance == of(None, 1.0).guidance == 1.0
    with pytest.raises(DigitError, match="needs classes: leave out renderer_guidance"):
        of(None, 2.0)

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests_support import drawn_at_once

from digit.errors import DigitError
from digit.nn.batch import CodeBatch
from digit.nn.noise import keys
from digit.nn.sampling import SamplerConfig
from digit.renderer import Renderer, RendererConfig

TINY = RendererConfig(codes=11, length=4, vq_codes=13, vq_length=6, width=16, layers=2, heads=2)


def make(config=TINY):
    torch.manual_seed(0)
    return Renderer(config).double().eval()


def codes_of(rows=3):
    return torch.randint(11, (rows, 4)), torch.randint(13, (rows, 6))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_logits_read_all_codes_and_the_vq_codes_before_them(norm):
    renderer = make(replace(TINY, norm=norm))
    codes, vq_codes = codes_of()
    logits = renderer.logits(codes, vq_codes)
    assert logits.shape == (3, 6, 13) and torch.equal(renderer(codes, vq_codes), logits)
    for position in range(6):
        changed = vq_codes.clone()
        changed[:, position] = (changed[:, position] + 1) % 13
        same = (renderer.logits(codes, changed) == logits).all(-1)
        assert same[:, : position + 1].all() and not same[:, position + 1 :].any()
    for position in range(4):
        changed = codes.clone()
        changed[:, position] = (changed[:, position] + 1) % 11
        assert not (renderer.logits(changed, vq_codes) == logits).all(-1).any()


def test_the_codes_too_are_read_causally():
    renderer = make()
    x = renderer.embed(codes_of()[0]).detach().requires_grad_()
    renderer.transformer(x)[:, 1].square().sum().backward()
    assert torch.equal(x.grad[:, 2:], torch.zeros_like(x.grad[:, 2:])) and (x.grad[:, :2] != 0).any(-1).all()


def test_loss_is_smoothed_cross_entropy():
    renderer = make()
    codes, vq_codes = codes_of()
    expected = F.cross_entropy(
        renderer.logits(codes, vq_codes).transpose(1, 2), vq_codes, label_smoothing=0.1
    )
    assert torch.allclose(renderer.loss(CodeBatch(codes, vq_codes=vq_codes)), expected, atol=1e-12)


def test_parameters_of_the_published_size():
    with torch.device("meta"):
        renderer = Renderer(RendererConfig(codes=8192, length=256, vq_codes=1024, vq_length=256))
    count = sum(weight.numel() for weight in renderer.parameters())
    # The reference's, without rows for special symbols (the start stays one) and for unused positions.
    assert count == 214_144_000 - (4 + 5 + 5 + 770 + 770) * 1024


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_cached_and_uncached_sampling_agree(norm):
    renderer = make(replace(TINY, norm=norm))
    codes, _ = codes_of(20)
    for sampler in (None, SamplerConfig(top_p=0.8)):
        cached = renderer.sample(codes, range(20), sampler)
        own = keys(range(20), stage="renderer")
        assert torch.equal(cached, drawn_at_once(renderer.logits(codes, cached), own, sampler))
        assert cached.shape == (20, 6) and cached.min() >= 0 and cached.max() < 13


def test_a_seed_fixes_its_image_whatever_the_batch():
    renderer, (codes, _) = make(), codes_of(20)
    together = renderer.sample(codes, range(20))
    assert torch.equal(renderer.sample(codes, range(20), batch_size=8), together)
    assert torch.equal(renderer.sample(codes[[7, 3]], [7, 3]), together[[7, 3]])
    assert len(renderer.sample(codes[:1].expand(20, -1), range(20)).unique(dim=0)) > 15


def test_temperature_0_is_the_likeliest_continuation():
    renderer, (codes, _) = make(), codes_of()
    vq_codes = renderer.sample(codes, range(3), SamplerConfig(temperature=0.0))
    assert torch.equal(renderer.logits(codes, vq_codes).argmax(-1), vq_codes)


def test_progress_hears_every_code():
    heard = []
    make().sample(codes_of(5)[0], range(5), batch_size=2, progress=heard.append)
    assert sum(heard) == 30


def test_what_sampling_refuses():
    renderer, (codes, _) = make(), codes_of(2)
    for given, seeds, message in (
        (codes, [1], "2 rows of codes came with 1 seeds"),
        (codes[:, :3], [1, 2], "reads 4 codes per image, these have 3"),
        (codes + 11, [1, 2], "the renderer knows 11"),
    ):
        with pytest.raises(DigitError, match=message):
            renderer.sample(given, seeds)
    for labels, config, message in (
        (None, SamplerConfig(guidance=2.0), "guidance 2.0 needs a renderer of classes"),
        ([0, 1], None, "the renderer knows none"),
    ):
        with pytest.raises(DigitError, match=message):
            renderer.sample(codes, [1, 2], config, labels=labels)


def test_wrong_settings_are_refused():
    for wrong in (
        *({"codes": 0}, {"vq_length": 0}, {"label_smoothing": 1.0}),
        *({"classes": -1}, {"label_dropout": 1.0}, {"label_dropout": float("nan")}),
    ):
        with pytest.raises(DigitError):
            replace(TINY, **wrong)


BY_CLASS = replace(TINY, classes=3, label_dropout=0.5)


def test_the_vq_codes_read_the_label_and_the_codes_do_not():
    renderer, (codes, vq_codes) = make(BY_CLASS), codes_of()
    labels = torch.tensor([2, 0, -1])
    told, untold = renderer.logits(codes, vq_codes, labels), renderer.logits(codes, vq_codes)
    assert (told[:2] != untold[:2]).any(-1).all() and torch.equal(told[2], untold[2])
    read = renderer.embed(codes, labels)
    assert torch.equal(read[:, :4], renderer.embed(codes)[:, :4])


def test_labels_are_dropped_in_training_only():
    renderer, (codes, vq_codes) = make(replace(BY_CLASS, dropout=0.0)), codes_of(4)
    batch = CodeBatch(codes, torch.tensor([0, 1, 2, 2]), vq_codes)

    def expected(labels):
        logits = renderer.logits(codes, vq_codes, labels).transpose(1, 2)
        return F.cross_entropy(logits, vq_codes, label_smoothing=0.1)

    assert torch.allclose(renderer.loss(batch), expected(batch.labels), atol=1e-12)
    torch.manual_seed(1)
    dropped = torch.rand(4) < 0.5
    assert 0 < dropped.sum() < 4
    torch.manual_seed(1)
    loss = renderer.train().loss(batch)
    assert torch.allclose(loss, expected(batch.labels.masked_fill(dropped, -1)), atol=1e-12)


@pytest.mark.parametrize(
    "sampler",
    [SamplerConfig(guidance=3.0), SamplerConfig(guidance=2.0, guidance_schedule="linear", top_p=0.9)],
)
def test_guided_sampling_draws_from_the_guided_logits(sampler):
    renderer, (codes, _) = make(BY_CLASS), codes_of(20)
    labels = torch.arange(20) % 3
    drawn = renderer.sample(codes, range(20), sampler, labels=labels)
    null = renderer.logits(codes, drawn)
    expected = drawn_at_once(
        renderer.logits(codes, drawn, labels), keys(range(20), stage="renderer"), sampler, null=null
    )
    assert torch.equal(drawn, expected)
    again = renderer.sample(codes, range(20), sampler, labels=labels.tolist(), batch_size=3)
    assert torch.equal(again, drawn)
    rows = [11, 2]
    assert torch.equal(renderer.sample(codes[rows], rows, sampler, labels=labels[rows]), drawn[rows])


def test_a_renderer_by_class_also_draws_without_if_it_was_trained_to():
    renderer, (codes, _) = make(BY_CLASS), codes_of(6)
    free = renderer.sample(codes, range(6))
    assert torch.equal(renderer.sample(codes, range(6), labels=[-1] * 6), free)
    assert not torch.equal(renderer.sample(codes, range(6), labels=[1] * 6), free)
    always = make(replace(BY_CLASS, label_dropout=0.0))
    for labels, sampler, message in (
        (None, None, "this renderer was trained with a label for every image"),
        ([0] * 6, SamplerConfig(guidance=2.0), "needs a renderer trained with label dropout"),
        ([3] * 6, None, "the renderer knows 0 to 2"),
        ([0] * 5, None, "6 seeds came with 5 labels"),
    ):
        with pytest.raises(DigitError, match=message):
            always.sample(codes, range(6), sampler, labels=labels)

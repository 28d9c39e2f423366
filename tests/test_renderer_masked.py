import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from digit.errors import DigitError
from digit.nn.batch import CodeBatch
from digit.nn.sampling import SamplerConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer, masked_after

TINY = MaskedConfig(codes=11, length=4, vq_codes=13, vq_length=12, width=16, layers=2, heads=2, steps=4)


def make(config=TINY):
    torch.manual_seed(0)
    return MaskedRenderer(config).double().eval()


def codes_of(rows=3):
    return torch.randint(11, (rows, 4)), torch.randint(13, (rows, 12))


def test_mask_counts_of_the_published_schedules():
    assert masked_after(256, 8) == [251, 236, 212, 181, 142, 97, 49, 0]
    assert masked_after(256, 12) == [253, 247, 236, 221, 203, 181, 155, 128, 97, 66, 33, 0]
    assert masked_after(5, 1) == [0]
    assert masked_after(3, 3) == [2, 1, 0]


def test_every_position_reads_every_other():
    renderer, (codes, vq_codes) = make(), codes_of()
    logits = renderer.logits(codes, vq_codes)
    assert logits.shape == (3, 12, 13) and torch.equal(renderer(codes, vq_codes), logits)
    for table, size in ((codes, 11), (vq_codes, 14)):
        for position in (0, table.shape[1] - 1):
            old = table[:, position].clone()
            table[:, position] = (old + 1) % size
            assert not (renderer.logits(codes, vq_codes) == logits).all(-1).any()
            table[:, position] = old


def test_masks_are_as_many_as_the_cosine_says():
    torch.manual_seed(0)
    masks = make().draw_masks(torch.zeros(4000, 12, dtype=torch.int64))
    counts = masks.sum(1)
    assert counts.min() >= 1 and counts.max() == 12
    # P(count = 12) = P(12 cos(pi u / 2) >= 11)
    assert math.isclose((counts == 12).double().mean(), math.acos(11 / 12) * 2 / math.pi, abs_tol=0.03)
    share = masks.double().mean(0)
    assert (share - share.mean()).abs().max() < 0.04  # no position is favoured


def test_loss_is_smoothed_cross_entropy_where_masked():
    renderer, (codes, vq_codes) = make(), codes_of()
    torch.manual_seed(5)
    loss = renderer.loss(CodeBatch(codes, vq_codes=vq_codes))
    torch.manual_seed(5)
    masked = renderer.draw_masks(vq_codes)
    logits = renderer.logits(codes, vq_codes.masked_fill(masked, renderer.mask))
    expected = F.cross_entropy(logits[masked], vq_codes[masked], label_smoothing=0.1)
    assert torch.allclose(loss, expected, atol=1e-12)


def test_parameters_of_the_published_size():
    with torch.device("meta"):
        renderer = MaskedRenderer(MaskedConfig(codes=8192, length=256, vq_codes=1024, vq_length=256))
    count = sum(weight.numel() for weight in renderer.parameters())
    # The reference's, without rows for special symbols (separator and mask stay) and for unused positions.
    assert count == 214_144_000 - (3 + 5 + 5 + 769 + 770) * 1024


def test_a_seed_fixes_its_image_whatever_the_batch():
    renderer, (codes, _) = make(), codes_of(20)
    together = renderer.sample(codes, range(20))
    assert together.dtype == torch.int64 and together.min() >= 0 and together.max() < 13  # no mask is left
    assert torch.equal(renderer.sample(codes, range(20), batch_size=8), together)
    assert torch.equal(renderer.sample(codes[[7, 3]], [7, 3]), together[[7, 3]])
    assert len(renderer.sample(codes[:1].expand(20, -1), range(20)).unique(dim=0)) > 15
    assert not torch.equal(renderer.sample(codes, range(20), noise=0.0), together)


def test_one_step_draws_every_code_from_the_fully_masked_logits():
    renderer, (codes, _) = make(), codes_of(1)
    drawn = renderer.sample(codes.expand(4000, -1), range(4000), steps=1, batch_size=4000)
    expected = renderer.logits(codes, torch.full((1, 12), renderer.mask)).softmax(-1)[0]
    shares = F.one_hot(drawn, 13).double().mean(0)
    assert torch.allclose(shares, expected, atol=0.035)


def test_greedy_steps_keep_the_most_confident():
    """Temperature 0 without noise, against a slow loop over single images."""
    renderer, (codes, _) = make(), codes_of(5)
    drawn = renderer.sample(codes, range(5), SamplerConfig(temperature=0.0), noise=0.0)
    for row in range(5):
        vq_codes = torch.full((1, 12), renderer.mask)
        for left in masked_after(12, 4):
            odds = renderer.logits(codes[row : row + 1], vq_codes).log_softmax(-1)[0]
            masked = [position for position in range(12) if vq_codes[0, position] == renderer.mask]
            masked.sort(key=lambda position: -odds[position].max().item())
            for position in masked[: len(masked) - left]:
                vq_codes[0, position] = odds[position].argmax()
        assert torch.equal(drawn[row], vq_codes[0])


def test_sampling_leaves_the_model_as_it_was():
    renderer, (codes, _) = make().train(), codes_of(2)
    drawn = renderer.sample(codes, [0, 1])
    assert renderer.transformer.training and not drawn.is_inference()
    heard = []
    renderer.sample(codes, [0, 1], batch_size=1, progress=heard.append)
    assert sum(heard) == 24


def test_what_sampling_refuses():
    renderer, (codes, _) = make(), codes_of(2)
    for arguments in ({"steps": 0}, {"steps": 13}, {"config": SamplerConfig(guidance=2.0)}):
        with pytest.raises(DigitError, match="give 1"):
            renderer.sample(codes, [1, 2], **arguments)
    with pytest.raises(DigitError, match="came with"):
        renderer.sample(codes, [1])
    with pytest.raises(DigitError):
        replace(TINY, vq_codes=0)


BY_CLASS = replace(TINY, classes=3, label_dropout=0.5)


def test_every_position_reads_the_label():
    renderer, (codes, vq_codes) = make(BY_CLASS), codes_of()
    labels = torch.tensor([2, 0, -1])
    told, untold = renderer.logits(codes, vq_codes, labels), renderer.logits(codes, vq_codes)
    assert (told[:2] != untold[:2]).any(-1).all() and torch.equal(told[2], untold[2])


def test_labels_are_dropped_in_training_only():
    renderer, (codes, vq_codes) = make(replace(BY_CLASS, dropout=0.0)), codes_of(4)
    batch = CodeBatch(codes, torch.tensor([0, 1, 2, 2]), vq_codes)
    for training in (False, True):
        torch.manual_seed(3)
        loss = renderer.train(training).loss(batch)
        torch.manual_seed(3)
        masked = renderer.draw_masks(vq_codes)
        dropped = (torch.rand(4) < 0.5) & training
        assert training == bool(dropped.any()) and not dropped.all()
        labels = batch.labels.masked_fill(dropped, -1)
        assert torch.equal(loss, renderer.masked_loss(codes, vq_codes, masked, labels))


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_guided_steps_keep_the_most_confident_of_the_guided(schedule):
    """Temperature 0 without noise, against a slow loop over single images."""
    renderer, (codes, _) = make(BY_CLASS), codes_of(5)
    labels = torch.tensor([0, 1, 2, 1, -1])
    config = SamplerConfig(temperature=0.0, guidance=3.0, guidance_schedule=schedule)
    drawn = renderer.sample(codes, range(5), config, labels=labels, noise=0.0)
    for row in range(5):
        vq_codes, read = torch.full((1, 12), renderer.mask), codes[row : row + 1]
        for step, left in enumerate(masked_after(12, 4)):
            weight = 3.0 if schedule == "constant" else 1 + 2 * step / 3
            null = renderer.logits(read, vq_codes)[0]
            logits = null + weight * (renderer.logits(read, vq_codes, labels[row : row + 1])[0] - null)
            odds = logits.log_softmax(-1)
            masked = [position for position in range(12) if vq_codes[0, position] == renderer.mask]
            masked.sort(key=lambda position: -odds[position].max().item())
            for position in masked[: len(masked) - left]:
                vq_codes[0, position] = odds[position].argmax()
        assert torch.equal(drawn[row], vq_codes[0])


def test_a_seed_fixes_its_guided_image_whatever_the_batch():
    renderer, (codes, _) = make(BY_CLASS), codes_of(20)
    labels, config = torch.arange(20) % 3, SamplerConfig(guidance=2.0)
    together = renderer.sample(codes, range(20), config, labels=labels)
    again = renderer.sample(codes, range(20), config, labels=labels.tolist(), batch_size=3)
    assert torch.equal(again, together) and not together.is_inference()
    rows = [7, 3]
    assert torch.equal(renderer.sample(codes[rows], rows, config, labels=labels[rows]), together[rows])
    plain = renderer.sample(codes, range(20), labels=labels)
    assert not torch.equal(plain, together) and not torch.equal(plain, renderer.sample(codes, range(20)))


def test_what_a_renderer_by_class_refuses():
    always, (codes, _) = make(replace(BY_CLASS, label_dropout=0.0)), codes_of(2)
    for labels, config, message in (
        (None, None, "this renderer was trained with a label for every image"),
        ([0, 0], SamplerConfig(guidance=2.0), "needs a renderer trained with label dropout"),
        ([0, 3], None, "the renderer knows 0 to 2"),
    ):
        with pytest.raises(DigitError, match=message):
            always.sample(codes, [1, 2], config, labels=labels)

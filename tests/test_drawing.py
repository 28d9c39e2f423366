"""Who looks on while pictures are drawn sees them come, and changes nothing."""

import itertools

import pytest
import torch

import digit
from digit.drawing import GREY, code_colours, enlarged, mosaic
from digit.pipeline import DigitPipeline
from digit.rendering import to_uint8


@pytest.fixture(scope="module")
def pipeline(flow):
    return DigitPipeline.from_pretrained(flow.all)


@pytest.mark.parametrize("renderer", ["autoregressive", "masked", "flow"])
def test_a_callback_sees_every_code_come_and_stay_and_the_pictures_last(pipeline, renderer):
    seen, how = [], {"seeds": range(5), "renderer": renderer, "batch_size": 3, "steps": None}
    drawn = pipeline(**how, callback=seen.append)
    assert torch.equal(drawn.pixels, pipeline(**how).pixels)
    for first, count in ((0, 3), (3, 2)):  # the batches, one after another
        part = [each for each in seen if each.first == first]
        rows = slice(first, first + count)
        assert all(each.seeds == list(range(5))[rows] for each in part)
        assert all(each.labels == drawn.labels[rows] for each in part)
        for before, after in itertools.pairwise(part):
            there = before.codes >= 0
            assert torch.equal(before.codes[there], after.codes[there])
            assert (after.codes >= 0).sum() >= there.sum()
        length = pipeline.prior.config.length
        assert [(each.codes[0] >= 0).sum() for each in part[:length]] == [*range(1, length + 1)]
        last = part[-1]
        assert [each.finished for each in part] == [False] * (len(part) - 1) + [True]
        assert torch.equal(last.codes, drawn.codes[rows]) and torch.equal(last.pixels, drawn.pixels[rows])
        assert len(last.images) == count and last.images[0].size == (16, 16)
        if renderer == "flow":
            assert last.vq_codes is None
            assert len(part) == length + pipeline.renderer_flow.config.steps + 1
        else:
            assert torch.equal(last.vq_codes, drawn.vq_codes[rows])
            assert torch.equal(part[-2].pixels, last.pixels)


def test_what_is_not_drawn_yet_is_grey(pipeline):
    seen = []
    pipeline(seeds=[0], renderer="autoregressive", callback=seen.append)
    half = next(each for each in seen if each.vq_codes is None and (each.codes >= 0).sum() == 8)
    colours, cells = code_colours(pipeline.prior.config.codes), half.pixels[0].unfold(1, 4, 4).unfold(2, 4, 4)
    assert torch.equal(cells[:, 2:], torch.full_like(cells[:, 2:], GREY))
    assert torch.equal(cells[:, 0, 0, 0, 0], colours[half.codes[0, 0]])
    some = next(each for each in seen if each.vq_codes is not None)
    there = enlarged((some.vq_codes >= 0).unsqueeze(1), 16)
    shown = to_uint8(pipeline.vqgan.decode(some.vq_codes.clamp(min=0)))
    assert torch.equal(some.pixels, torch.where(there, shown, torch.full_like(shown, GREY)))


def test_codes_of_no_square_are_shown_too():
    assert mosaic(torch.tensor([[0, 1, 2, -1, 3]]), 4, 9).shape == (1, 3, 9, 9)


def test_what_a_callback_raises_ends_the_drawing(pipeline):
    def enough(drawing):
        if (drawing.codes >= 0).sum() == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(seeds=[0], callback=enough)
    assert pipeline(seeds=[0]).pixels.shape == (1, 3, 16, 16)  # and the next call is as any


def test_a_model_without_renderers_shows_its_vq_codes(chain):
    whole = DigitPipeline(
        *(digit.load(chain.root / name) for name in ("prior_vq", "vqgan")),
    )
    seen = []
    drawn = whole(seeds=[0, 1], callback=seen.append)
    assert torch.equal(seen[-2].pixels, drawn.pixels) and torch.equal(seen[-2].vq_codes, drawn.codes)

"""What the page draws is what `digit sample` draws; what cannot be meant is one sentence."""

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from digit import DigitError, DigitPipeline
from digit.data.decode import decode
from digit.data.transforms import render
from digit.page.drawing import EACH, MOST, NONE, Shown, Wish, check_against, complete, draw


@pytest.fixture(scope="module")
def pipeline(chain):
    return DigitPipeline.from_pretrained(chain.root / "model")


def last(parts) -> Shown:
    *_, whole = parts
    return whole


def drawn_by(run, line, folder):
    """The pixels of a command line's pictures, in the order of its list."""
    code, _, err = run(*shlex.split(line)[1:], "--out", folder)
    assert code == 0, err
    rows = json.loads((folder / "samples.json").read_text())["samples"]
    pictures = np.stack([np.asarray(Image.open(folder / row["file"])) for row in rows])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "wish",
    [
        Wish(count=4),
        Wish("red", seed=5, count=2, guidance=3.5, temperature=0.7, renderer="masked"),
        Wish(NONE, seed=2**40, count=1, guidance=2.0, temperature=1.5),
        Wish("1", seed=9, count=1, temperature=0.0, renderer="autoregressive"),
    ],
    ids=["each", "class", "none", "number"],
)
def test_a_seed_is_its_picture_here_and_by_the_command(chain, run, pipeline, tmp_path, wish):
    shown = list(draw(pipeline, wish))
    again = drawn_by(run, wish.command(str(chain.root / "model")), tmp_path / "s")
    assert torch.equal(shown[-1].rows[0], again)
    for part in shown:  # it fills, and nothing that is there changes
        assert torch.equal(part.rows[0], again[: len(part.names)])
    assert shown[0].rows[0].shape[0] <= 2


def test_a_completion_is_that_of_the_command(chain, run, pipeline, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    pixels = torch.from_numpy(render(decode((tmp_path / "photo.png").read_bytes()), 16))[None]
    for wish in (Wish(seed=3, count=3), Wish("green", count=1, guidance=2.0)):
        shown = last(complete(pipeline, pixels, 5, wish))
        words = ["--prefix-from", str(tmp_path / "photo.png"), "--prefix", "5"]
        line = wish.command(str(chain.root / "model"), *words)
        again = drawn_by(run, line, tmp_path / str(wish.count))
        pictures = shown.rows[0]
        assert torch.equal(pictures[0], pixels[0]) and torch.equal(pictures[2:], again)
        told = {"labels": None if wish.label == EACH else [wish.label], "seeds": [wish.seed]}
        assert torch.equal(pictures[1], pipeline.decode(pipeline.encode(pixels), **told)[0])
        assert shown.names[:2] == ["picture", "all codes"] and len(shown.names) == wish.count + 2


def test_others_render_the_same_codes(pipeline):
    """As that renderer's own pictures of the same seeds."""
    wish = Wish(count=2, renderer="autoregressive")
    shown = last(draw(pipeline, wish, (pipeline, "masked"), (pipeline, "autoregressive")))
    alone = last(draw(pipeline, Wish(count=2, renderer="masked")))
    assert torch.equal(shown.rows[1], alone.rows[0]) and torch.equal(shown.rows[2], shown.rows[0])
    assert not torch.equal(shown.rows[0], shown.rows[1])


def test_the_sentence_says_what_how_long_and_how_quickly(pipeline):
    shown = list(draw(pipeline, Wish("blue", seed=8, count=3)))
    assert [part.names for part in shown] == [["blue 8", "blue 9"], ["blue 8", "blue 9", "blue 10"]]
    assert shown[0].sentence.startswith("2 of 3 pictures of blue: ")
    assert shown[1].sentence.startswith("3 pictures of blue: ")
    assert shown[1].sentence.endswith(" pictures per second")
    assert last(draw(pipeline, Wish(NONE, count=1))).sentence.startswith("1 picture without a class: ")


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"count": MOST + 1}, "count: 65 is out of bounds"),
        ({"count": 0}, "count"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**53}, "seed"),
        ({"guidance": -1.0}, "guidance"),
        ({"temperature": float("nan")}, "temperature"),
        ({"label": "zebra"}, "unknown label 'zebra'"),
        ({"renderer": "flow"}, "no flow renderer"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_a_sentence(pipeline, wish, words):
    with pytest.raises(DigitError, match=words):
        next(draw(pipeline, Wish(**wish)))


def test_no_more_codes_are_kept_than_there_are(pipeline):
    pixels = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    for kept in (-1, 17):
        with pytest.raises(DigitError, match="codes to keep"):
            next(complete(pipeline, pixels, kept, Wish()))


def test_a_model_of_other_codes_is_no_other_side(chain, pipeline):
    check_against(pipeline, pipeline, "itself")
    bundled = DigitPipeline.from_pretrained(parts=["renderer"])
    with pytest.raises(DigitError, match="against cifar10 has other codes or classes"):
        check_against(pipeline, bundled, "cifar10")

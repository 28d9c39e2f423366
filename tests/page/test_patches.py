"""Patches of a code: among pictures that the page drew, and the visitor's own."""

import pytest
import torch

from digit import DigitError, DigitPipeline
from digit.evaluation.codebook import nearest_patches
from digit.page import patches
from digit.page.patches import COLUMNS, Pool


@pytest.fixture
def pool(chain):
    return Pool(DigitPipeline.from_pretrained(chain.root / "model"))


def test_it_fills_and_says_so(pool, monkeypatch):
    monkeypatch.setattr(patches, "_SECONDS", 1e9)
    monkeypatch.setattr(patches, "_ENOUGH", 10)
    said = list(pool.fill())
    assert len(pool.pictures) == 10 and [line[-9:] for line in said] == [": 0 of 10", ": 8 of 10"]
    assert list(pool.fill()) == []


def test_filling_ends_with_its_time(pool, monkeypatch):
    monkeypatch.setattr(patches, "_SECONDS", 0.0)
    assert list(pool.fill()) == [] and not pool.pictures


def test_a_pool_is_bounded(pool):
    pool.pictures.extend(torch.zeros(1000, 3, 16, 16, dtype=torch.uint8))
    assert len(pool.pictures) == 256


def test_patches_are_those_of_the_codebook_and_counted(pool):
    pipeline = pool.pipeline
    drawn = pipeline(num_images=12).pixels
    pool.pictures.extend(drawn[1:])
    pool.pictures.append(drawn[0])  # the visitor's own once more, which counts once
    codes = pipeline.encode(drawn)
    code = int(codes[0].mode().values)
    found, sentence = pool.patches(code, drawn[0])
    many = int((codes == code).any(1).sum())
    said = f"code {code} is in {many} of 12 pictures, yours and 11 that this page drew; its nearest patches:"
    assert sentence == said and len(found) == min(many, COLUMNS)
    whole = nearest_patches(pipeline.tokenizer, [drawn.float() / 255], codes=[code], columns=COLUMNS, size=96)
    assert torch.equal(found, whole.patches[0, :many])


def test_a_model_without_a_tokenizer_says_so(chain):
    blind = DigitPipeline.from_pretrained(chain.root / "model", parts=["renderer"])
    with pytest.raises(DigitError, match="no tokenizer"):
        Pool(blind).patches(0, torch.zeros(3, 16, 16, dtype=torch.uint8))

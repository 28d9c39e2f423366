"""digit.evaluation.pictures: one set of pictures, whatever it comes as; processes share its batches."""

import numpy as np
import pytest
import torch
from PIL import Image

from digit.data.decode import BrokenImage
from digit.errors import DigitError
from digit.evaluation import pictures as module
from digit.evaluation.pictures import bilinear_square, open_pictures, shared, without_statistics

PIXELS = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    for i, picture in enumerate(PIXELS):
        place = tmp_path / "set" / ("cat" if i < 4 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
    return tmp_path / "set"


def test_files_arrays_tensors_and_streams_are_the_same_pictures(folder, tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=PIXELS.permute(0, 2, 3, 1).numpy())
    for source in (folder, str(tmp_path / "a.npz"), PIXELS, iter(PIXELS.split(2))):
        opened = open_pictures(source, batch_size=4)
        assert open_pictures(opened) is opened
        assert opened.size == 8 and opened.n in (9, None)
        assert torch.equal(torch.cat(list(opened.batches)), PIXELS)
    labelled = open_pictures(folder)
    assert (labelled.classes, labelled.labels.tolist()) == (("cat", "dog"), [0] * 4 + [1] * 5)


def test_processes_read_every_batch_once(folder, monkeypatch):
    for source in (folder, PIXELS):
        parts = []
        for rank in range(3):
            monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(module, "world_size", lambda: 3)
            mine = shared(open_pictures(source, batch_size=2))
            assert mine.n == 9
            parts.append(list(mine.batches))
        assert [len(part) for part in parts] == [2, 2, 1]
        order = [parts[i % 3][i // 3] for i in range(5)]
        assert torch.equal(torch.cat(order), PIXELS)


def test_bilinear_squares_are_of_the_size_and_not_of_any():
    assert bilinear_square(Image.new("RGB", (5, 256)), 5).size == (5, 5)
    assert bilinear_square(Image.new("RGB", (300, 40)), 20).size == (20, 20)
    same = Image.fromarray(PIXELS[0].permute(1, 2, 0).numpy())
    assert np.array_equal(bilinear_square(same, 8), same)
    with pytest.raises(BrokenImage, match="would be"):
        bilinear_square(Image.new("RGB", (2, 60_000)), 256)


def test_a_picture_that_cannot_be_read_is_named(folder):
    (folder / "cat" / "0.png").write_bytes(b"none")
    with pytest.raises(DigitError, match=r"0\.png .*repair or remove"):
        open_pictures(folder)
    with pytest.raises(DigitError, match=r"0\.png"):
        list(open_pictures(folder, size=8, bilinear=True).batches)
    with pytest.raises(DigitError, match="holds no pictures"):
        open_pictures(iter([]))


def test_statistics_alone_are_no_pictures(tmp_path):
    np.savez(tmp_path / "s.npz", mu=np.zeros(3), sigma=np.eye(3))
    opened = open_pictures(tmp_path / "s.npz")
    assert opened.n == 0 and opened.pooled is not None
    with pytest.raises(DigitError, match="statistics and no pictures"):
        without_statistics(opened)

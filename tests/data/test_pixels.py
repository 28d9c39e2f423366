import numpy as np
import pytest
import torch
from odd_pictures import encoded, picture
from PIL import Image

from digit.data.images import open_images
from digit.data.loader import Report
from digit.data.order import order
from digit.data.pixels import PixelData
from digit.errors import DigitError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """20 pictures of two classes; the red value of each is its number."""
    root = tmp_path_factory.mktemp("set")
    for i in range(20):
        name = root / ("even" if i % 2 == 0 else "odd") / f"{i:02d}.png"
        name.parent.mkdir(exist_ok=True)
        image = picture(16, 12)
        red, green, blue = image.split()
        name.write_bytes(encoded(Image.merge("RGB", (red.point(lambda _, i=i: i), green, blue)), "PNG"))
    return root


def numbers(batch):
    return (batch.pixels[:, 0, 0, 0] * 255).round().long().tolist()


def test_a_batch_is_a_function_of_seed_and_step(folder):
    source = open_images(folder)
    data = PixelData(source, size=8, batch_size=6, seed=3, crop=True)
    batches = [data(step) for step in range(7)]
    again = PixelData(source, size=8, batch_size=6, seed=3, crop=True, threads=1)
    for step in (5, 0, 6, 2):
        assert torch.equal(again(step).pixels, batches[step].pixels)
        assert torch.equal(again(step).labels, batches[step].labels)
    assert batches[0].pixels.dtype == torch.float32 and batches[0].pixels.shape == (6, 3, 8, 8)
    assert batches[0].pixels.min() >= 0 and batches[0].pixels.max() <= 1
    assert not torch.equal(PixelData(source, size=8, batch_size=6, seed=4)(0).pixels, batches[0].pixels)


def test_samples_follow_the_order_and_keep_their_labels(folder):
    source = open_images(folder)
    data = PixelData(source, size=8, batch_size=7, seed=1)
    for step in range(6):
        batch = data(step)
        expected = [int(source.names[i][-6:-4]) for i in order(1, step, 7, 20)]
        assert numbers(batch) == expected
        assert [source.classes[label] for label in batch.labels] == [("even", "odd")[n % 2] for n in expected]


@pytest.mark.parametrize("crop", [False, True])
def test_memory_and_background_give_the_same_pixels(folder, crop):
    source = open_images(folder)
    stored = PixelData(source, size=8, batch_size=6, crop=crop)
    ahead = PixelData(source, size=8, batch_size=6, crop=crop, memory_limit_bytes=0)
    for step in (0, 1, 2, 9, 3, 4, 0):
        assert torch.equal(stored(step).pixels, ahead(step).pixels)
        assert torch.equal(stored(step).labels, ahead(step).labels)


def test_half_of_the_pictures_are_mirrored(folder):
    source = open_images(folder)
    plain = PixelData(source, size=8, batch_size=400, flip=False)(0).pixels
    flipped = PixelData(source, size=8, batch_size=400)(0).pixels
    same = (plain == flipped).flatten(1).all(1)
    assert 150 < same.sum() < 250
    assert torch.equal(plain[~same].flip(3), flipped[~same])


def test_crops_are_windows_of_the_enlarged_picture(folder):
    source = open_images(folder)
    large = PixelData(source, size=18, batch_size=200, flip=False)(0).pixels
    crops = PixelData(source, size=16, batch_size=200, flip=False, crop=True)(0).pixels
    offsets = set()
    for whole, part in zip(large, crops, strict=True):
        found = [
            (y, x) for y in range(3) for x in range(3) if torch.equal(whole[:, y : y + 16, x : x + 16], part)
        ]
        assert found
        offsets.add(found[0])
    assert len(offsets) == 9


@pytest.mark.parametrize("memory_limit_bytes", [0, 10**9])
def test_the_next_readable_picture_replaces_a_broken_one(folder, tmp_path, memory_limit_bytes):
    source = open_images(folder)
    bad = {2, 3, 19}
    read = source.read
    object.__setattr__(source, "read", lambda i: b"rubbish" if i in bad else read(i))
    report = Report()
    data = PixelData(
        source, size=8, batch_size=20, flip=False, memory_limit_bytes=memory_limit_bytes, report=report
    )
    instead = {2: 4, 3: 4, 19: 0}
    for step in range(2):
        expected = [instead.get(int(i), int(i)) for i in order(0, step, 20, 20)]
        batch = data(step)
        assert numbers(batch) == [int(source.names[i][-6:-4]) for i in expected]
        assert np.array_equal(batch.labels.numpy(), source.labels[expected])
    assert {name for name, _ in report.skipped} == {source.names[i] for i in bad}


@pytest.mark.parametrize("memory_limit_bytes", [0, 10**9])
def test_a_set_without_a_readable_picture_is_refused(tmp_path, memory_limit_bytes):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"rubbish")
    source = open_images(tmp_path)
    with pytest.raises(DigitError, match="no picture of"):
        PixelData(source, size=8, batch_size=2, memory_limit_bytes=memory_limit_bytes)(0)
    with pytest.raises(DigitError, match=r"0\.jpg|1\.jpg|2\.jpg"):
        PixelData(source, size=8, batch_size=2, memory_limit_bytes=memory_limit_bytes, strict=True)(0)


def test_progress_and_unlabelled_pictures(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(), "PNG"))
    calls: list[tuple[int, int]] = []
    data = PixelData(
        open_images(tmp_path), size=8, batch_size=5, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(3, 3)] and len(data) == 3
    assert data(0).labels is None and data(0).pixels.shape == (5, 3, 8, 8)

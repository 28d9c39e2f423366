import numpy as np
import pytest
from odd_pictures import picture
from PIL import Image
from resize_oracle import resized

from digit.data.transforms import render, resize


def resized_and_cropped(image: Image.Image, size: int) -> np.ndarray:
    """torchvision's Resize(size, bicubic) and CenterCrop(size), written out."""
    width, height = image.size
    scaled = (size, int(size * height / width)) if width < height else (int(size * width / height), size)
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


@pytest.mark.parametrize("shape", [(50, 31), (31, 50), (20, 12), (64, 64), (33, 32), (7, 90)])
def test_the_plain_view_is_resize_and_centre_crop(shape):
    image = picture(*shape)
    expected = resized_and_cropped(image, 16).astype(int)
    assert np.abs(render(image, 16).astype(int) - expected).max() <= 1


def test_a_picture_of_the_size_is_not_resampled_and_view_1_is_the_mirror():
    image = picture(16, 16)
    plain = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(render(image, 16), plain)
    assert np.array_equal(render(image, 16, view=1), plain[:, :, ::-1])


def test_random_views_are_fixed_by_seed_name_and_view():
    image = picture(60, 40)
    first = render(image, 16, view=2, seed=1, name="a.jpg")
    assert np.array_equal(first, render(image, 16, view=2, seed=1, name="a.jpg"))
    others = [(3, 1, "a.jpg"), (2, 2, "a.jpg"), (2, 1, "b.jpg")]
    for view, seed, name in others:
        assert not np.array_equal(first, render(image, 16, view=view, seed=seed, name=name))


def test_random_views_stay_inside_and_use_the_whole_range():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (128, 1))
    image = Image.fromarray(np.stack([ramp] * 3, -1))
    views = [render(image, 32, name=str(i), view=2)[0, 0].astype(int) for i in range(300)]
    mirrored = sum(row[0] > row[-1] for row in views)
    assert 100 < mirrored < 200
    lowest, highest = min(row.min() for row in views), max(row.max() for row in views)
    assert lowest < 8 and highest > 247  # both ends of the picture are reached
    widths = [abs(row[-1] - row[0]) for row in views]
    assert min(widths) < 113 and max(widths) > 121  # enlarged by 1 to 1.125


def test_extreme_shapes_cost_no_memory():
    assert render(picture(1, 60_000), 64).shape == (3, 64, 64)
    assert render(picture(60_000, 1), 64, view=2).shape == (3, 64, 64)
    assert render(picture(1, 1), 8, view=5).shape == (3, 8, 8)


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize("shape", [(9, 15), (15, 9), (16, 16), (5, 4), (3, 30), (30, 3), (8, 60), (1, 1)])
def test_rows_come_before_columns_whatever_pillow_would_do(shape, resample):
    width, height = shape
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image, side = Image.fromarray(pixels), min(shape)
    left, top = (width - side) / 2, (height - side) / 2
    parts = [
        (0.0, 0.0, float(width), float(height)),
        (left, top, left + side, top + side),
        (0.3 * width, 0.0, 0.9 * width, float(height)),
    ]
    for box in parts:
        for size in ((7, 7), (4, 11)):
            found = np.asarray(resize(image, size, resample, box=box)).astype(int)
            expected = resized(pixels, size, resample, box)
            if height > 4 * (box[3] - box[1]):  # a part was cut out first, and its place rounded anew
                assert np.abs(found - expected).max() <= 1
            else:
                assert np.array_equal(found, expected)
    assert np.array_equal(resize(image, (7, 7), resample), resize(image, (7, 7), resample, box=parts[0]))

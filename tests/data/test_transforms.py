import numpy as np
import pytest
from odd_pictures import picture
from PIL import Image

from digit.data.transforms import render


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

"""Pictures of pictures: every pixel is one of the pictures', and words have their place."""

import numpy as np
import torch

from digit.run.grid import grid


def pictures(count: int, side: int = 96) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 200, (count, 3, side, side), dtype=torch.uint8, generator=draw)


def test_every_picture_stands_whole_in_its_place():
    given = pictures(5)
    sheet = np.asarray(grid(given, columns=3))
    assert sheet.shape == (2 * 98 + 2, 3 * 98 + 2, 3)
    for i, picture in enumerate(given.permute(0, 2, 3, 1).numpy()):
        top, left = 2 + i // 3 * 98, 2 + i % 3 * 98
        assert (sheet[top : top + 96, left : left + 96] == picture).all()
    assert (sheet[100:, 198:] == 255).all()  # there is no sixth


def test_small_pictures_are_enlarged_without_new_colours():
    given = pictures(1, 16)
    sheet = np.asarray(grid(given))
    assert sheet.shape == (100, 100, 3)
    assert (sheet[2:98:6, 2:98:6] == given[0].permute(1, 2, 0).numpy()).all()


def test_one_picture_makes_no_strip_of_white():
    assert grid(pictures(1), columns=10).size == (100, 100)


def test_words_add_room_and_leave_the_pictures_as_they_are():
    given = pictures(4)
    plain = np.asarray(grid(given, columns=2))
    named = np.asarray(grid(given, columns=2, above=["cat", "a" * 99], beside=["own", "VQ only"]))
    top, left = (named.shape[i] - plain.shape[i] for i in (0, 1))
    assert top > 0 and left > 0
    assert (named[top:, left:] == plain).all()
    for words in (named[:top, left : left + 100], named[:top, left + 100 :], named[top : top + 98, :left]):
        assert words.min() < 100  # black letters
    assert (named[:top, -2:] == 255).all()  # the long word is cut off where its column ends

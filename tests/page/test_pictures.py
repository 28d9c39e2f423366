"""What a visitor may send as a picture."""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from digit import DigitError
from digit.page.pictures import MOST_BYTES, from_url, pixels_of, to_url


def png(width=8, height=6, **how):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "png", **how)
    return file.getvalue()


def test_a_picture_goes_to_the_browser_and_back_unchanged():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 3, 16, 16), dtype=np.uint8))
    assert torch.equal(from_url(to_url(pixels[0]), 16), pixels)


def test_a_picture_becomes_a_square():
    found = pixels_of(png(50, 20), 16)
    assert found.shape == (1, 3, 16, 16) and found[0, :, 3, 3].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a text called .png", "not a picture in a known format"),
        (b"", "empty"),
        (png()[:40], "cannot be read"),
    ],
)
def test_no_picture_is_a_sentence(data, words):
    with pytest.raises(DigitError, match=words):
        pixels_of(data, 16)


def test_a_bomb_is_refused_by_its_header():
    data = bytearray(png())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(DigitError, match="3600000000 pixels"):
        pixels_of(bytes(data), 16)


@pytest.mark.parametrize(
    "text",
    [
        None,
        3,
        "",
        "http://127.0.0.1/x.png",
        "file:///etc/passwd",
        "data:image/png;base64,§",
        "data:image/png;base64,AAAA",
    ],
)
def test_other_texts_are_a_sentence(text):
    with pytest.raises(DigitError):
        from_url(text, 16)


def test_a_text_beyond_an_uploads_size_is_not_read():
    with pytest.raises(DigitError, match="there is no picture"):
        from_url("data:image/png;base64," + "A" * MOST_BYTES, 16)

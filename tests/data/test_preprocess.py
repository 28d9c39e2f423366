"""Files, folders and pictures of Pillow become the pixels that tokenizing reads."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import digit
from digit.data.images import open_images
from digit.data.loader import load_pixels
from digit.errors import DigitError


@pytest.fixture
def photos(tmp_path):
    """Pictures higher and wider than the size, one turned by its EXIF, one with transparency."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, shape in (("a.png", (31, 47, 3)), ("b.png", (60, 33, 3)), ("c.png", (40, 40, 4))):
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(folder / name)
    turned = Image.fromarray(rng.integers(0, 255, (30, 50, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "d.jpg", exif=exif)
    return folder


def test_pixels_are_those_that_tokenizing_reads(photos):
    source = open_images(photos)
    read = load_pixels(source, range(len(source)), 24)[1]
    files = sorted(photos.iterdir())
    for given in (photos, str(photos), files, [str(file) for file in files], [Image.open(f) for f in files]):
        assert torch.equal(digit.preprocess(given, size=24), read)
    assert torch.equal(digit.preprocess(files[1], size=24), read[1:2])
    assert torch.equal(digit.preprocess([Image.open(files[2]), files[0]], size=24), read[[2, 0]])


def test_codes_are_those_of_digit_tokenize(chain, tmp_path, run):
    where = ("--images", chain.images, "--tokenizer", chain.root / "tokenizer", "--out", tmp_path / "codes")
    code, _, said = run("tokenize", *where, "--views", 1, "--num", 6, "--device", "cpu")
    assert code == 0, said
    from digit.data.codes import open_codes

    written = torch.from_numpy(open_codes(tmp_path / "codes").array("codes")[:, 0].astype(np.int64))
    with zipfile.ZipFile(chain.images) as archive:
        archive.extractall(tmp_path / "pictures")
    tokenizer = digit.load(chain.root / "tokenizer")
    source = open_images(chain.images).spread(6)
    files = [tmp_path / "pictures" / name for name in source.names]
    assert torch.equal(tokenizer.encode(files), written)
    assert torch.equal(tokenizer.encode(digit.preprocess(files, size=16)), written)
    pipeline = digit.DigitPipeline.from_pretrained(chain.root / "model")
    assert torch.equal(pipeline.encode(files), written) and torch.equal(
        pipeline.encode(files[0]), written[:1]
    )


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DigitError, match=r"gone\.png"):
        digit.preprocess(tmp_path / "gone.png", size=8)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    with pytest.raises(DigitError, match=r"broken\.png .*cannot be read"):
        digit.preprocess(tmp_path / "broken.png", size=8)
    with pytest.raises(DigitError, match="pictures: the list is empty"):
        digit.preprocess([], size=8)
    with pytest.raises(DigitError, match="pictures: a picture of Pillow cannot be read"):
        digit.preprocess(Image.fromarray(np.full((4, 4), 2.0, np.float32)), size=8)

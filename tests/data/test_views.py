"""Codes and pixels of the same views: what comes together was tokenised together, in memory or read ahead."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_pictures import encoded, picture

from digit.data.codes import CodeData, Codes
from digit.data.images import open_images
from digit.data.views import ViewData, first_views
from digit.data.views import tokenised as rows_of
from digit.data.write_codes import CodeKind, write_codes
from digit.errors import DigitError
from digit.files import write_json_atomic

SIZE, MANY = 12, 10**9
WEIGHTS = torch.randint(1, 60_000, (3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))


def by_every_pixel(pixels):
    """Four codes per picture, one for each row of three lines: another level anywhere is another code."""
    return (pixels.long() * WEIGHTS).reshape(len(pixels), 3, 4, -1).sum((1, 3)) % 65_521


KINDS = {"codes": CodeKind(by_every_pixel, 65_536, "tokenizer-id")}


def make(root: Path, *, classes: bool = True) -> Path:
    """Eleven pictures that are no squares, the fourth of them broken; of two classes or none."""
    for i in range(11):
        file = root / (("cat", "dog")[i % 2] if classes else "") / f"{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(19 + i % 3, 15, seed=i), "PNG")[: 60 if i == 3 else None])
    return root


def tokenised(where, source, **how) -> Codes:
    return write_codes(source, where, KINDS, size=SIZE, seed=7, **how)[0]


@pytest.fixture
def folder(tmp_path) -> Path:
    return make(tmp_path / "pictures")


@pytest.mark.parametrize("limit", [0, MANY])
@pytest.mark.parametrize("views", [1, 2, 4])
@pytest.mark.parametrize(("kind", "classes"), [("folder", True), ("zip", True), ("folder", False)])
def test_pixels_tokenised_again_are_their_codes(tmp_path, kind, classes, views, limit):
    path = make(tmp_path / "pictures", classes=classes)
    if kind == "zip":
        path = Path(shutil.make_archive(str(path), "zip", path))
    source = open_images(path)
    codes = tokenised(tmp_path / "codes", source, views=views)
    data = ViewData(codes, source, batch_size=8, seed=3, memory_limit_bytes=limit)
    alone = CodeData(codes, batch_size=8, seed=3)
    seen = set()
    for step in (6, 0, 1, 2, 3):
        batch, expected = data(step), alone(step)
        levels = (batch.pixels * 255).round().to(torch.uint8)
        assert torch.equal(by_every_pixel(levels), batch.codes)
        assert torch.equal(levels.float() / 255, batch.pixels)
        assert torch.equal(batch.codes, expected.codes)
        assert batch.codes.dtype == torch.int64
        if classes:
            assert torch.equal(batch.labels, expected.labels)
        else:
            assert batch.labels is None
        seen |= set(alone.chosen(step)[1].tolist())
    assert seen == set(range(views))
    assert len(data) == len(codes) == 10


def test_memory_and_background_give_the_same_batches(folder, tmp_path):
    source = open_images(folder)
    codes = tokenised(tmp_path / "codes", source, views=4)
    stored = ViewData(codes, source, batch_size=7)
    ahead = ViewData(codes, source, batch_size=7, memory_limit_bytes=0, threads=1)
    for step in (0, 1, 2, 9, 3, 0):
        for a, b in zip(stored(step), ahead(step), strict=True):
            assert torch.equal(a, b)


def test_it_is_kept_if_what_is_rendered_fits(folder, tmp_path):
    """The mirror is not: two views of ten pictures take what one takes, four what three take."""
    source = open_images(folder)
    for views, rendered in ((1, 1), (2, 1), (4, 3)):
        codes = tokenised(tmp_path / f"codes{views}", source, views=views)
        needed, calls = 10 * rendered * 3 * SIZE**2, []
        for limit in (needed, needed - 1):
            how = {"memory_limit_bytes": limit, "progress": lambda *done, to=calls: to.append(done)}
            ViewData(codes, source, batch_size=2, **how)
        assert calls == [(10, 10)]


def changed(folder):
    """The same names and sizes, and one other byte."""
    file = folder / "cat/04.png"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    return open_images(folder)


def renamed(folder):
    (folder / "cat/04.png").rename(folder / "cat/05.png")
    return open_images(folder)


def reordered(folder):
    source = open_images(folder)
    return source.select(np.arange(len(source))[::-1])


def moved(folder):
    """A picture to another class."""
    (folder / "cat/04.png").rename(folder / "dog/04.png")
    return open_images(folder)


OTHERS = [(changed, False), (renamed, False), (reordered, False), (moved, False), (renamed, True)]


@pytest.mark.parametrize(("other", "older"), OTHERS)
def test_other_pictures_are_refused_before_one_is_decoded(folder, tmp_path, monkeypatch, other, older):
    codes = tokenised(tmp_path / "codes", open_images(folder))
    if older:
        del codes.meta["plan"]["content"]
    source = other(folder)
    monkeypatch.delattr("digit.data.loader.decode")
    with pytest.raises(DigitError, match=r"pictures does not hold the pictures that .*codes was made of"):
        ViewData(codes, source, batch_size=2)


def test_a_set_without_codes_of_a_tokenizer_is_refused(folder, tmp_path, monkeypatch):
    source = open_images(folder)
    codes, _ = write_codes(source, tmp_path / "codes", {"vq_codes": KINDS["codes"]}, size=SIZE)
    monkeypatch.delattr("digit.data.loader.decode")
    with pytest.raises(DigitError, match="codes holds no codes: repeat `digit tokenize`"):
        ViewData(codes, source, batch_size=2)


def test_a_list_of_what_was_left_out_that_does_not_fit_is_refused(folder, tmp_path):
    source = open_images(folder)
    codes = tokenised(tmp_path / "codes", source)
    codes.meta["skipped"] = []
    with pytest.raises(DigitError, match="does not hold the pictures"):
        ViewData(codes, source, batch_size=2)


@pytest.mark.parametrize("limit", [0, MANY])
def test_a_picture_that_became_unreadable_is_named(folder, tmp_path, capsys, limit):
    source = open_images(folder)
    codes = tokenised(tmp_path / "codes", source)
    del codes.meta["plan"]["content"]  # as of older versions; else its other bytes would be noticed first
    file = folder / "cat/04.png"
    file.write_bytes(bytes(file.stat().st_size))
    source = open_images(folder)
    with pytest.raises(DigitError, match=r"cat/04\.png in .*pictures was tokenised and cannot be read any"):
        ViewData(codes, source, batch_size=10, memory_limit_bytes=limit)(0)
    assert "codes is of an older version: names, sizes and classes" in capsys.readouterr().err


@pytest.mark.parametrize("classes", [True, False])
def test_first_views_are_the_centre_crops_of_the_places_with_their_codes(tmp_path, classes):
    source = open_images(make(tmp_path / "pictures", classes=classes))
    codes = tokenised(tmp_path / "codes", source, views=3)
    places = np.array([0, 9, 3])
    rows = rows_of(codes, source)
    found = first_views(codes, rows, places)
    assert torch.equal(by_every_pixel((found.pixels * 255).round().to(torch.uint8)), found.codes)
    assert found.codes.tolist() == codes.array("codes")[places, 0].tolist()
    assert (found.labels is None) if codes.labels is None else found.labels.tolist() == [0, 1, 0]
    file = sorted((tmp_path / "pictures").rglob("*.png"))[0]
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(DigitError, match=f"{file.name} in .* was tokenised and cannot be read any more"):
        first_views(codes, rows, places)


def test_pictures_that_were_spread_over_a_set_are_found_in_it(folder, tmp_path):
    source = open_images(folder)
    codes = tokenised(tmp_path / "codes", source.spread(6))
    data = ViewData(codes, source, batch_size=4)
    assert torch.equal(by_every_pixel((data(0).pixels * 255).round().to(torch.uint8)), data(0).codes)
    codes = tokenised(tmp_path / "others", source.select([0, 1, 2]))
    with pytest.raises(DigitError, match="does not hold the pictures that"):
        ViewData(codes, source, batch_size=2)


@pytest.mark.parametrize("name", ["size", "plan", "seed"])
@pytest.mark.parametrize("value", [..., None, "x", [1]])
def test_codes_that_do_not_say_how_pictures_were_rendered_are_refused(tmp_path, folder, name, value):
    source = open_images(folder)
    meta = dict(tokenised(tmp_path / "codes", source).meta)
    inner = meta["plan"] = dict(meta["plan"])
    (inner if name == "seed" else meta).pop(name)
    (inner if name == "seed" else meta).update({} if value is ... else {name: value})
    write_json_atomic(tmp_path / "codes" / "meta.json", meta, checksum=True)
    with pytest.raises(DigitError, match=rf"{name}.*repeat"):
        ViewData(Codes(tmp_path / "codes"), source, batch_size=4)

"""digit.evaluation.pictures: one set of pictures, whatever it comes as; processes share its batches."""

import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from digit.data.decode import BrokenImage
from digit.errors import DigitError
from digit.evaluation import pictures as module
from digit.evaluation.pictures import (
    bilinear_square,
    npz_writer,
    open_npz,
    open_pictures,
    shared,
    without_statistics,
)

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


def pictures(n: int, seed: int = 0, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def test_numpy_reads_what_was_written_in_parts(tmp_path):
    pixels = pictures(10)
    with npz_writer(tmp_path / "deep" / "s.npz", 10) as add:
        for start, stop in ((0, 4), (4, 5), (5, 10)):
            add(pixels[start:stop], list(range(start, stop)))
    with np.load(tmp_path / "deep" / "s.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"arr_0", "arr_1"}
        assert arrays["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["arr_0"], pixels.permute(0, 2, 3, 1).numpy())
        assert arrays["arr_1"].tolist() == list(range(10))
    again = open_npz(tmp_path / "deep" / "s.npz", 3)
    assert (again.n, again.size, again.pooled) == (10, 8, None)
    assert torch.equal(torch.cat(list(again.batches)), pixels)


def test_equal_pictures_make_equal_bytes_without_labels(tmp_path):
    for name, parts in (("a", 2), ("b", 5)):
        with npz_writer(tmp_path / name, 10) as add:
            for part in pictures(10).split(parts):
                add(part)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert archive.namelist() == ["arr_0.npy"]
        assert archive.testzip() is None


def test_memory_is_one_batch(tmp_path):
    batch = pictures(8, size=64)
    tracemalloc.start()
    with npz_writer(tmp_path / "s.npz", 8 * 40) as add:
        for _ in range(40):
            add(batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * batch.nbytes < (tmp_path / "s.npz").stat().st_size / 3


def test_the_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "s.npz"
    for n, words in ((5, "to hold 5 pictures and got 4"), (3, "to hold 3 pictures and got 4")):
        with pytest.raises(DigitError, match=words), npz_writer(path, n) as add:
            add(pictures(4))
    with pytest.raises(KeyboardInterrupt), npz_writer(path, 4) as add:
        add(pictures(4))
        raise KeyboardInterrupt
    with pytest.raises(DigitError, match="equal sizes"), npz_writer(path, 8) as add:
        add(pictures(4))
        add(pictures(4, size=9))
    for labels in ((None, [1, 2, 3, 4]), ([1, 2, 3, 4], None), ([1], None)):
        with pytest.raises(DigitError, match="a label for every picture"), npz_writer(path, 8) as add:
            for part in labels:
                add(pictures(4), part)
    assert not list(tmp_path.iterdir())
    path.write_text("old")
    with pytest.raises(DigitError), npz_writer(path, 1):
        pass
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_cut_short_is_named(tmp_path):
    np.savez(tmp_path / "s.npz", arr_0=pictures(50).permute(0, 2, 3, 1).numpy())
    data = bytearray((tmp_path / "s.npz").read_bytes())
    data[300] ^= 255  # a pixel that no longer fits its checksum
    (tmp_path / "s.npz").write_bytes(data)
    with pytest.raises(DigitError, match=r"s\.npz is damaged"):
        list(open_npz(tmp_path / "s.npz", 7).batches)
    (tmp_path / "cut.npz").write_bytes(data[:500])
    with pytest.raises(DigitError, match=r"cut\.npz cannot be read"):
        open_npz(tmp_path / "cut.npz")


def pictures_of(folder, *sizes):
    folder.mkdir()
    for i, (wide, high) in enumerate(sizes):
        Image.new("RGB", (wide, high), (i, 2 * i, 3 * i)).save(folder / f"{i:03d}.png")
    return folder


def test_one_small_picture_does_not_decide_for_all(tmp_path, capsys):
    opened = open_pictures(pictures_of(tmp_path / "set", (8, 8), *[(32, 32)] * 9))
    assert opened.size == 32
    told = capsys.readouterr().err
    assert "several sizes (9 of 32x32, 1 of 8x8): measured are all at 32 px (size)" in told
    assert open_pictures(tmp_path / "set", size=16).size == 16
    assert "all at 16 px" in capsys.readouterr().err


def test_pictures_that_are_no_squares_are_told_and_alike_squares_are_not(tmp_path, capsys):
    assert open_pictures(pictures_of(tmp_path / "wide", *[(40, 30)] * 3)).size == 30
    assert "no squares (3 of 40x30): measured are their middle squares at 30 px" in capsys.readouterr().err
    open_pictures(pictures_of(tmp_path / "squares", *[(16, 16)] * 3))
    assert capsys.readouterr().err == ""


def test_of_many_some_are_looked_at(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "LOOKED_AT", 4)
    assert open_pictures(pictures_of(tmp_path / "set", *[(16, 16)] * 9, (8, 8))).size == 16
    assert "(3 of 16x16, 1 of 8x8 of 4 looked at)" in capsys.readouterr().err

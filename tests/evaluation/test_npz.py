import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.npz import NpzWriter, open_npz


def pictures(n: int, seed: int = 0, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def test_numpy_reads_what_was_written_in_parts(tmp_path):
    pixels = pictures(10)
    with NpzWriter(tmp_path / "deep" / "s.npz", 10) as file:
        for start, stop in ((0, 4), (4, 5), (5, 10)):
            file.add(pixels[start:stop], list(range(start, stop)))
    with np.load(tmp_path / "deep" / "s.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"arr_0", "arr_1"}
        assert arrays["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["arr_0"], pixels.permute(0, 2, 3, 1).numpy())
        assert arrays["arr_1"].tolist() == list(range(10))
    again = open_npz(tmp_path / "deep" / "s.npz")
    assert (again.n, again.side, again.pooled) == (10, 8, None)
    assert torch.equal(torch.cat(list(again.batches(3))), pixels)


def test_equal_pictures_make_equal_bytes_without_labels(tmp_path):
    for name, parts in (("a", 2), ("b", 5)):
        with NpzWriter(tmp_path / name, 10) as file:
            for part in pictures(10).split(parts):
                file.add(part)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert archive.namelist() == ["arr_0.npy"]
        assert archive.testzip() is None


def test_memory_is_one_batch(tmp_path):
    batch = pictures(8, size=64)
    tracemalloc.start()
    with NpzWriter(tmp_path / "s.npz", 8 * 40) as file:
        for _ in range(40):
            file.add(batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * batch.nbytes < (tmp_path / "s.npz").stat().st_size / 3


def test_the_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "s.npz"
    for n, words in ((5, "to hold 5 pictures and got 4"), (3, "to hold 3 pictures and got 4")):
        with pytest.raises(DigitError, match=words), NpzWriter(path, n) as file:
            file.add(pictures(4))
    with pytest.raises(KeyboardInterrupt), NpzWriter(path, 4) as file:
        file.add(pictures(4))
        raise KeyboardInterrupt
    with pytest.raises(DigitError, match="equal sizes"), NpzWriter(path, 8) as file:
        file.add(pictures(4))
        file.add(pictures(4, size=9))
    for labels in ((None, [1, 2, 3, 4]), ([1, 2, 3, 4], None), ([1], None)):
        with pytest.raises(DigitError, match="a label for every picture"), NpzWriter(path, 8) as file:
            for part in labels:
                file.add(pictures(4), part)
    assert not list(tmp_path.iterdir())
    path.write_text("old")
    with pytest.raises(DigitError), NpzWriter(path, 1):
        pass
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_cut_short_is_named(tmp_path):
    np.savez(tmp_path / "s.npz", arr_0=pictures(50).permute(0, 2, 3, 1).numpy())
    data = bytearray((tmp_path / "s.npz").read_bytes())
    data[300] ^= 255  # a pixel that no longer fits its checksum
    (tmp_path / "s.npz").write_bytes(data)
    with pytest.raises(DigitError, match=r"s\.npz is damaged"):
        list(open_npz(tmp_path / "s.npz").batches(7))
    (tmp_path / "cut.npz").write_bytes(data[:500])
    with pytest.raises(DigitError, match=r"cut\.npz cannot be read"):
        open_npz(tmp_path / "cut.npz")

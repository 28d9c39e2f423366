"""What each process reads is its part of what one process reads, whatever the number of processes."""

import numpy as np
import pytest
import torch
from tests_support import make_pictures

import digit.distributed
from digit.data.codes import CodeData, Codes
from digit.data.images import open_images
from digit.data.pixels import PixelData
from digit.data.views import ViewData
from digit.data.write_codes import CodeKind, write_codes
from digit.errors import DigitError


@pytest.fixture
def processes(monkeypatch):
    """Run a function as each of `count` processes, one after another."""

    def call(count, function):
        results = []
        for rank in range(count):
            monkeypatch.setattr(digit.distributed, "world_size", lambda: count)
            monkeypatch.setattr(digit.distributed, "rank", lambda rank=rank: rank)
            results.append(function())
        return results

    return call


class Few(Codes):
    """Twenty pictures in three views."""

    def __init__(self):
        self.labels = np.arange(20)
        self.values = np.arange(20 * 3 * 4, dtype=np.uint16).reshape(20, 3, 4)
        self.touched = []

    def array(self, name):
        return self.values


@pytest.mark.parametrize("count", [2, 3, 4, 6])
@pytest.mark.parametrize("limit", [0, 10**9])
def test_codes(processes, count, limit):
    def read():
        data = CodeData(Few(), batch_size=12, seed=5, memory_limit_bytes=limit)
        return [data(step) for step in range(4)]  # across the end of an epoch

    (whole,) = processes(1, read)
    parts = processes(count, read)
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step].codes for part in parts]), batch.codes)
        assert torch.equal(torch.cat([part[step].labels for part in parts]), batch.labels)
        assert all(len(part[step].codes) == 12 // count for part in parts)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("limit", [0, 10**9])
def test_pixels_with_crops_and_flips(tmp_path, processes, count, limit):
    source = open_images(make_pictures(tmp_path / "pictures.zip", count=8))

    def read():
        data = PixelData(source, size=8, batch_size=6, seed=3, crop=True, memory_limit_bytes=limit)
        return [data(step) for step in range(3)]

    (whole,) = processes(1, read)
    parts = processes(count, read)
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step].pixels for part in parts]), batch.pixels)
        assert torch.equal(torch.cat([part[step].labels for part in parts]), batch.labels)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("limit", [0, 10**9])
def test_codes_with_their_pixels(tmp_path, processes, monkeypatch, count, limit):
    source = open_images(make_pictures(tmp_path / "pictures.zip", count=8))
    kinds = {"codes": CodeKind(lambda pixels: pixels.long().sum((1, 2)), 65536, "tokenizer-id")}
    codes, _ = write_codes(source, tmp_path / "codes", kinds, size=12, views=3)
    monkeypatch.setattr("digit.data.identity.on_main", lambda work: work())  # nobody is there to be told

    def read():
        data = ViewData(codes, source, batch_size=6, seed=3, memory_limit_bytes=limit)
        return [data(step) for step in range(3)]

    (whole,) = processes(1, read)
    parts = processes(count, read)
    for step, batch in enumerate(whole):
        for name in batch._fields:
            joined = torch.cat([getattr(part[step], name) for part in parts])
            assert torch.equal(joined, getattr(batch, name))


def test_only_its_own_rows_are_read(tmp_path, processes, monkeypatch):
    source = open_images(make_pictures(tmp_path / "pictures.zip", count=8))
    loaded = []

    def read():
        data = PixelData(source, size=8, batch_size=6, memory_limit_bytes=0)
        load = data._load
        data._load = lambda indices: loaded.append(len(indices)) or load(indices)
        data(0)

    processes(3, read)
    assert set(loaded) == {2}


def test_a_batch_that_does_not_divide(processes):
    with pytest.raises(DigitError, match="batch 12 does not divide among 5 processes"):
        processes(5, lambda: CodeData(Few(), batch_size=12))

"""Tokenised data sets: resumable, never mixed, every byte checked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import make_pictures

from digit.data import write_codes as writing
from digit.data.codes import CodeData, Codes
from digit.data.images import open_images
from digit.data.write_codes import Stream, write_codes
from digit.errors import DigitError, LineageError
from digit.lineage import check_lineage


@pytest.fixture
def source(tmp_path):
    return open_images(make_pictures(tmp_path / "pictures.zip", count=20))


def mean_codes(pixels: torch.Tensor) -> torch.Tensor:
    """Four codes a picture: the brightness of its quarters."""
    return (torch.nn.functional.adaptive_avg_pool2d(pixels.mean(1), 2).flatten(1) * 255).long()


STREAMS = {"codes": Stream(mean_codes, 256, "tokenizer-id")}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(writing, "PART", 8)


def test_written_and_read_back(source, tmp_path):
    written, report = write_codes(source, tmp_path / "codes", STREAMS, size=16, views=2)
    assert not report.skipped
    assert len(written) == 20
    array = written.array("codes")
    assert array.shape == (20, 2, 4)
    assert array.dtype == np.uint16
    assert isinstance(array, np.memmap)
    # The second view is the mirror: left and right quarters change places.
    np.testing.assert_array_equal(array[:, 0, [1, 0, 3, 2]], array[:, 1])
    assert written.classes == ["blue", "green", "red"]
    np.testing.assert_array_equal(written.labels, source.labels)
    assert not (tmp_path / "codes" / "parts").exists()


def test_interrupted_run_goes_on_and_is_equal(source, tmp_path):
    whole, _ = write_codes(source, tmp_path / "whole", STREAMS, size=16)
    calls = 0

    def dies(pixels):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return mean_codes(pixels)

    broken = {"codes": Stream(dies, 256, "tokenizer-id")}
    with pytest.raises(KeyboardInterrupt):
        write_codes(source, tmp_path / "parts", broken, size=16, batch_size=8)
    with pytest.raises(DigitError, match="unfinished"):
        Codes(tmp_path / "parts")
    assert calls == 3
    again, _ = write_codes(source, tmp_path / "parts", broken, size=16, batch_size=8)
    assert calls == 4  # two parts were done, the third is encoded once more
    np.testing.assert_array_equal(again.array("codes"), whole.array("codes"))
    assert again.meta["files"] == whole.meta["files"]


def test_refuses_another_tokenizer_or_other_settings(source, tmp_path):
    write_codes(source, tmp_path / "codes", STREAMS, size=16)
    other = {"codes": Stream(mean_codes, 256, "another-id")}
    with pytest.raises(LineageError, match="another streams"):
        write_codes(source, tmp_path / "codes", other, size=16)
    with pytest.raises(LineageError, match="another views"):
        write_codes(source, tmp_path / "codes", STREAMS, size=16, views=2)
    opened = Codes(tmp_path / "codes")
    with pytest.raises(LineageError, match="the prior"):
        check_lineage("the prior", {"tokenizer": "another-id"}, "these codes", opened.lineage())


@pytest.mark.parametrize("name", ["codes.npy", "labels.npy"])
def test_a_flipped_byte_is_found(source, tmp_path, name):
    write_codes(source, tmp_path / "codes", STREAMS, size=16)
    path = tmp_path / "codes" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigitError, match=f"{name} is missing or damaged"):
        Codes(tmp_path / "codes")


def test_broken_pictures_are_left_out_and_named(tmp_path):
    folder = tmp_path / "pictures"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        source = open_images(make_pictures(tmp_path / "some.zip", count=3))
        (folder / name / "good.png").write_bytes(source.read(0))
        (folder / name / "broken.png").write_bytes(source.read(0)[:60])
    source = open_images(folder)
    codes, report = write_codes(source, tmp_path / "codes", STREAMS, size=16)
    assert len(codes) == 2
    assert sorted(Path(name).name for name, _ in report.skipped) == ["broken.png", "broken.png"]
    np.testing.assert_array_equal(codes.labels, [0, 1])
    assert len(codes.meta["skipped"]) == 2
    with pytest.raises(DigitError, match=r"broken\.png"):
        write_codes(source, tmp_path / "strict", STREAMS, size=16, strict=True)


def test_too_many_codes_for_16_bits(source, tmp_path):
    with pytest.raises(DigitError, match="16 bits"):
        write_codes(source, tmp_path / "codes", {"codes": Stream(mean_codes, 65537, "x")}, size=16)


def test_training_data_is_a_function_of_the_step(source, tmp_path):
    wide = {"codes": STREAMS["codes"], "vq_codes": Stream(lambda p: mean_codes(p) + 65000, 65536, "vqgan-id")}
    codes, _ = write_codes(source, tmp_path / "codes", wide, size=16, views=2)
    names = ("codes", "vq_codes")
    data = CodeData(codes, batch_size=6, arrays=names, seed=3)
    streamed = CodeData(codes, batch_size=6, arrays=names, seed=3, memory_limit_bytes=0)
    seen = []
    for step in (4, 0, 4):
        batch, other = data(step), streamed(step)
        for a, b in zip(batch, other, strict=True):
            assert torch.equal(a, b)
        assert int(batch.vq_codes.min()) >= 65000  # 16 bits without a sign
        assert torch.equal(batch.vq_codes - 65000, batch.codes)  # the same picture in the same view
        seen.append(batch.codes)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    epoch = torch.cat([CodeData(codes, batch_size=5, seed=1)(step).labels for step in range(4)])
    assert torch.equal(epoch.bincount(), torch.from_numpy(codes.labels).bincount())


def test_damaged_meta(source, tmp_path):
    write_codes(source, tmp_path / "codes", STREAMS, size=16)
    meta = tmp_path / "codes" / "meta.json"
    meta.write_text(meta.read_text()[:50])
    with pytest.raises(DigitError, match="damaged"):
        Codes(tmp_path / "codes")
    meta.write_text(json.dumps({"format": 99}))
    with pytest.raises(DigitError, match="format 99"):
        Codes(tmp_path / "codes")
    with pytest.raises(DigitError, match=r"no meta\.json"):
        Codes(tmp_path)

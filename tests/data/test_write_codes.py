"""Writing a tokenised data set: resumable, never mixed, broken pictures named."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import make_pictures

from digit.data.codes import Codes
from digit.data.images import open_images
from digit.data.write_codes import CodeKind, write_codes
from digit.errors import DigitError, LineageError, check_lineage
from digit.files import write_bytes_atomic


def test_written_and_read_back(pictures, kinds, tmp_path):
    written, report = write_codes(pictures, tmp_path / "codes", kinds, size=16, views=2)
    assert not report.skipped
    assert len(written) == 20
    array = written.array("codes")
    assert array.shape == (20, 2, 4)
    assert array.dtype == np.uint16
    assert isinstance(array, np.memmap)
    # The second view is the mirror: left and right quarters change places.
    np.testing.assert_array_equal(array[:, 0, [1, 0, 3, 2]], array[:, 1])
    assert written.classes == ["blue", "green", "red"]
    np.testing.assert_array_equal(written.labels, pictures.labels)
    assert not (tmp_path / "codes" / "parts").exists()


def test_interrupted_run_goes_on_and_is_equal(pictures, kinds, tmp_path):
    whole, _ = write_codes(pictures, tmp_path / "whole", kinds, size=16)
    calls = 0

    def dies(pixels):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return kinds["codes"].encode(pixels)

    broken = {"codes": CodeKind(dies, 256, "tokenizer-id")}
    with pytest.raises(KeyboardInterrupt):
        write_codes(pictures, tmp_path / "parts", broken, size=16, batch_size=8)
    with pytest.raises(DigitError, match="unfinished"):
        Codes(tmp_path / "parts")
    assert calls == 3
    again, _ = write_codes(pictures, tmp_path / "parts", broken, size=16, batch_size=8)
    assert calls == 4  # two parts were done, the third is encoded once more
    np.testing.assert_array_equal(again.array("codes"), whole.array("codes"))
    assert again.meta["files"] == whole.meta["files"]


def test_refuses_another_tokenizer_or_other_settings(pictures, kinds, tmp_path):
    write_codes(pictures, tmp_path / "codes", kinds, size=16)
    other = {"codes": replace(kinds["codes"], artifact="another-id")}
    with pytest.raises(LineageError, match="another tokenizer or VQGAN"):
        write_codes(pictures, tmp_path / "codes", other, size=16)
    with pytest.raises(LineageError, match="another views"):
        write_codes(pictures, tmp_path / "codes", kinds, size=16, views=2)
    opened = Codes(tmp_path / "codes")
    with pytest.raises(LineageError, match="the prior"):
        check_lineage("the prior", {"tokenizer": "another-id"}, "these codes", opened.lineage())


def test_broken_pictures_are_left_out_and_named(kinds, tmp_path):
    folder = tmp_path / "pictures"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        source = open_images(make_pictures(tmp_path / "some.zip", count=3))
        (folder / name / "good.png").write_bytes(source.read(0))
        (folder / name / "broken.png").write_bytes(source.read(0)[:60])
    source = open_images(folder)
    codes, report = write_codes(source, tmp_path / "codes", kinds, size=16)
    assert len(codes) == 2
    assert sorted(Path(name).name for name, _ in report.skipped) == ["broken.png", "broken.png"]
    np.testing.assert_array_equal(codes.labels, [0, 1])
    assert len(codes.meta["skipped"]) == 2
    with pytest.raises(DigitError, match=r"broken\.png"):
        write_codes(source, tmp_path / "strict", kinds, size=16, strict=True)


def test_too_many_codes_for_16_bits(pictures, kinds, tmp_path):
    with pytest.raises(DigitError, match="16 bits"):
        write_codes(
            pictures, tmp_path / "codes", {"codes": replace(kinds["codes"], vocabulary=65537)}, size=16
        )


def test_pixels_reach_the_encoder_as_bytes(pictures, kinds, tmp_path):
    seen = set()

    def noting(pixels):
        seen.add((pixels.dtype, pixels.shape[1:]))
        return kinds["codes"].encode(pixels)

    noted = {"codes": replace(kinds["codes"], encode=noting)}
    write_codes(pictures, tmp_path / "codes", noted, size=8, views=3, batch_size=3)
    assert seen == {(torch.uint8, (3, 8, 8))}


def _hostile(arrays, how):
    """The arrays of a part as another program might write them."""
    match how:
        case "beyond the vocabulary":
            arrays["codes"][0, 0, 0] = 256
        case "other views":
            arrays["codes"] = arrays["codes"].repeat(2, axis=1)
        case "other numbers":
            arrays["codes"] = arrays["codes"].astype(np.int64)
        case "pictures of another part":
            arrays["index"] = arrays["index"] + 8
        case "pictures twice":
            arrays["index"][1] = arrays["index"][0]
        case "no reasons":
            arrays["skipped"] = np.array("[1")
        case "reasons that are none":
            arrays["skipped"] = np.array('[["a", 5]]')
        case "no codes":
            del arrays["codes"]


def test_a_link_to_elsewhere_is_no_place_for_parts(pictures, kinds, tmp_path):
    for name in ("away", "codes"):
        (tmp_path / name).mkdir()
    (tmp_path / "codes" / "parts").symlink_to(tmp_path / "away")
    with pytest.raises(DigitError, match="is a link to a folder elsewhere"):
        write_codes(pictures, tmp_path / "codes", kinds, size=16)
    assert not list((tmp_path / "away").iterdir())


HOSTILE = (
    *("beyond the vocabulary", "other views", "other numbers", "pictures of another part", "pictures twice"),
    *("no reasons", "reasons that are none", "no codes"),
)


@pytest.mark.parametrize("damage", ["gone", "flipped", "no archive", *HOSTILE])
def test_a_part_that_is_not_whole_is_made_again(pictures, kinds, tmp_path, monkeypatch, damage):
    """Of three parts one is lost after all were written: only its eight pictures are encoded again."""
    whole, _ = write_codes(pictures, tmp_path / "whole", kinds, size=16)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("digit.data.write_codes._assemble", stopped)
        write_codes(pictures, tmp_path / "codes", kinds, size=16)
    part = tmp_path / "codes" / "parts" / "0000000008.npz"
    if damage == "gone":
        part.unlink()
    elif damage == "no archive":
        write_bytes_atomic(part, b"PK\3\4" + bytes(200))
    elif damage in HOSTILE:  # whole by its checksum
        with np.load(BytesIO(part.read_bytes()), allow_pickle=False) as file:
            arrays = dict(file)
        _hostile(arrays, damage)
        file = BytesIO()
        np.savez(file, **arrays)
        write_bytes_atomic(part, file.getvalue())
    else:
        part.write_bytes(part.read_bytes()[:-40] + bytes(40))
    encoded = []

    def counting(pixels):
        encoded.append(len(pixels))
        return kinds["codes"].encode(pixels)

    advanced = []
    counted = {"codes": replace(kinds["codes"], encode=counting)}
    again, _ = write_codes(pictures, tmp_path / "codes", counted, size=16, progress=advanced.append)
    assert encoded == [8]
    assert sum(advanced) == 20
    assert again.meta == whole.meta

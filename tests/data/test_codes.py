"""Reading a tokenised data set: every byte checked, batches a function of the step."""

import json
import os

import numpy as np
import pytest
import torch

from digit.data.codes import CodeData, Codes, open_codes
from digit.data.write_codes import CodeKind, write_codes
from digit.errors import DigitError
from digit.files import read_json, sha256_file, write_json_atomic


@pytest.mark.parametrize("name", ["codes.npy", "labels.npy"])
def test_a_flipped_byte_is_found(pictures, kinds, tmp_path, name):
    write_codes(pictures, tmp_path / "codes", kinds, size=16)
    path = tmp_path / "codes" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigitError, match=f"{name} is missing or damaged"):
        Codes(tmp_path / "codes")


def test_training_data_is_a_function_of_the_step(pictures, kinds, tmp_path):
    encode = kinds["codes"].encode
    wide = {"codes": kinds["codes"], "vq_codes": CodeKind(lambda p: encode(p) + 65000, 65536, "vqgan-id")}
    codes, _ = write_codes(pictures, tmp_path / "codes", wide, size=16, views=2)
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
        pictures, view = data.chosen(step)
        assert (batch.codes.numpy() == codes.array("codes")[pictures, view]).all()
        seen.append(batch.codes)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    epoch = torch.cat([CodeData(codes, batch_size=5, seed=1)(step).labels for step in range(4)])
    assert torch.equal(epoch.bincount(), torch.from_numpy(codes.labels).bincount())


def test_damaged_meta(pictures, kinds, tmp_path):
    write_codes(pictures, tmp_path / "codes", kinds, size=16)
    meta = tmp_path / "codes" / "meta.json"
    meta.write_text(meta.read_text()[:50])
    with pytest.raises(DigitError, match="damaged"):
        Codes(tmp_path / "codes")
    meta.write_text(json.dumps({"format": 99}))
    with pytest.raises(DigitError, match="format 99"):
        Codes(tmp_path / "codes")
    with pytest.raises(DigitError, match=r"no meta\.json"):
        Codes(tmp_path)


def resealed(folder, name, array):
    """Another array in the place of one, with the checksum that fits it."""
    np.save(folder / name, array)
    meta = read_json(folder / "meta.json")
    meta["files"][name] = sha256_file(folder / name)
    write_json_atomic(folder / "meta.json", meta, checksum=True)


def test_codes_and_labels_beyond_their_number_are_found_when_a_set_is_opened(pictures, kinds, tmp_path):
    """Wherever they are, and where the checksums hold."""
    codes, _ = write_codes(pictures, tmp_path / "codes", kinds, size=16)
    good, labels = np.array(codes.array("codes")), codes.labels.astype(np.int32)
    most = codes.vocabulary("codes")
    for place in ((0, 0, 0), (-1, -1, -1)):
        wrong = good.copy()
        wrong[place] = most
        resealed(tmp_path / "codes", "codes.npy", wrong)
        with pytest.raises(DigitError, match=f"holds the code {most}, .* there are {most}"):
            Codes(tmp_path / "codes")
        with pytest.raises(DigitError, match="holds the code"):
            open_codes(tmp_path / "codes")
    good[0, 0, 0] = most - 1
    resealed(tmp_path / "codes", "codes.npy", good)
    for label in (-1, len(codes.classes)):
        wrong = labels.copy()
        wrong[1] = label
        resealed(tmp_path / "codes", "labels.npy", wrong)
        with pytest.raises(DigitError, match=f"labels from .* for {len(codes.classes)} classes"):
            Codes(tmp_path / "codes")
    resealed(tmp_path / "codes", "labels.npy", labels)
    assert len(Codes(tmp_path / "codes")) == len(labels)


def test_what_was_compared_with_its_checksum_is_what_is_read(pictures, kinds, tmp_path):
    """Whatever takes the file's place after the set is opened."""
    write_codes(pictures, tmp_path / "codes", kinds, size=16)
    opened = Codes(tmp_path / "codes")
    before = np.array(opened.array("codes"))
    (tmp_path / "codes/codes.npy").unlink()
    np.save(tmp_path / "codes/codes.npy", np.zeros_like(before))
    assert (opened.array("codes") == before).all()


@pytest.mark.parametrize("name", ["codes.npy", "labels.npy", "meta.json"])
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(pictures, kinds, tmp_path, name):
    write_codes(pictures, tmp_path / "codes", kinds, size=16)
    (tmp_path / "codes" / name).unlink()
    os.mkfifo(tmp_path / "codes" / name)
    with pytest.raises(DigitError):
        Codes(tmp_path / "codes")


@pytest.mark.parametrize("length", [0, 2, 8, 15])
def test_codes_that_fill_no_square_are_said_before_anything_is_trained(pictures, kinds, tmp_path, length):
    codes, _ = write_codes(pictures, tmp_path / "codes", kinds, size=16)
    codes.check_square("codes")
    resealed(tmp_path / "codes", "codes.npy", np.zeros((len(codes), 1, length), np.uint16))
    with pytest.raises(DigitError, match=f"has {length} codes per picture, which fill no square"):
        Codes(tmp_path / "codes").check_square("codes")

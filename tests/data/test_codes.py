"""Reading a tokenised data set: every byte checked, batches a function of the step."""

import json

import pytest
import torch

from digit.data.codes import CodeData, Codes
from digit.data.write_codes import CodeKind, write_codes
from digit.errors import DigitError


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

import math
import os

import pytest
import safetensors.torch
import torch

from digit.errors import DigitError
from digit.files import sha256_file
from digit.tensors import _TYPES, check_finite, read_safetensors, write_safetensors_atomic

SHAPES = {"scalar": (), "none": (0, 3), "é": (2, 3), "vector": (5,)}


def test_tensors_that_share_memory(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    tensors = {"base": base, "same": base, "row": base[1], "turned": base.T}
    write_safetensors_atomic(tmp_path / "t.safetensors", tensors)
    loaded = read_safetensors(tmp_path / "t.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_that_are_not_finite_are_found_by_name(dtype):
    """Also where they cancel; a sum that only overflows is no fault."""
    large = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    whole = {"large": large, "counts": torch.ones(3, dtype=torch.int64), "empty": torch.ones(0, dtype=dtype)}
    check_finite(whole, "file")
    for value in (math.nan, math.inf, -math.inf):
        for place in (0, 500, 999):
            wrong = large.clone()
            wrong[place] = value
            with pytest.raises(DigitError, match=r"^file holds values that are not finite, in b, c: "):
                check_finite(whole | {"b": wrong, "c": torch.tensor([math.inf, -math.inf])}, "file")


def test_files_are_byte_for_byte_those_of_the_library(tmp_path):
    kinds = [*_TYPES]
    tensors = {
        f"{kind}/{name}": torch.ones(shape).to(kind) for kind in kinds for name, shape in SHAPES.items()
    }
    for note in (None, {"artifact": 'prior "é"\n\x7f'}):
        digest = write_safetensors_atomic(tmp_path / "ours", tensors, metadata=note)
        safetensors.torch.save_file(tensors, tmp_path / "theirs", metadata=note)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
        assert digest == sha256_file(tmp_path / "ours")
    assert write_safetensors_atomic(tmp_path / "none", {}) == sha256_file(tmp_path / "none")
    assert read_safetensors(tmp_path / "none") == {}


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "nothing", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    with pytest.raises(DigitError, match=str(path)):
        read_safetensors(path)


def test_tensors_stay_when_the_file_is_closed_and_gone(tmp_path):
    write_safetensors_atomic(tmp_path / "a", {"a": torch.arange(1000)})
    found = read_safetensors(tmp_path / "a")
    (tmp_path / "a").unlink()
    assert torch.equal(found["a"], torch.arange(1000))

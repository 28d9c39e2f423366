import pytest
import torch

from digit import files
from digit.errors import DigitError


def test_a_block_that_raises_changes_nothing(tmp_path):
    files.write_text_atomic(tmp_path / "a.txt", "old")

    def fails():
        with files.atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_folders_replace_folders(tmp_path):
    for text in ("one", "two"):
        with files.atomic_path(tmp_path / "deep/folder") as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(text)
    assert (tmp_path / "deep/folder/file").read_text() == "two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["folder"]


def test_sweep_takes_temporaries_only(tmp_path):
    (tmp_path / ".tmp-x-state").mkdir()
    (tmp_path / ".tmp-y").write_text("")
    (tmp_path / "kept").write_text("")
    assert files.sweep(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_tensors_that_share_memory(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    tensors = {"base": base, "same": base, "row": base[1], "turned": base.T}
    files.write_safetensors_atomic(tmp_path / "t.safetensors", tensors)
    loaded = files.read_safetensors(tmp_path / "t.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_json(tmp_path):
    files.write_json_atomic(tmp_path / "a.json", {"a": [1, "ä"]})
    assert files.read_json(tmp_path / "a.json") == {"a": [1, "ä"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json_atomic(tmp_path / "b.json", float("nan"))
    with pytest.raises(DigitError, match="does not exist"):
        files.read_json(tmp_path / "b.json")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")

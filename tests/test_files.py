import errno
import fcntl
import math
import os
import socket
import subprocess
import sys

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


def test_clean_up_takes_temporaries_only(tmp_path):
    (tmp_path / ".tmp-x-state").mkdir()
    (tmp_path / ".tmp-y").write_text("")
    (tmp_path / "kept").write_text("")
    assert files.clean_up(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_tensors_that_share_memory(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    tensors = {"base": base, "same": base, "row": base[1], "turned": base.T}
    files.write_safetensors_atomic(tmp_path / "t.safetensors", tensors)
    loaded = files.read_safetensors(tmp_path / "t.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_that_are_not_finite_are_found_by_name(dtype):
    """Also where they cancel; a sum that only overflows is no fault."""
    large = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    whole = {"large": large, "counts": torch.ones(3, dtype=torch.int64), "empty": torch.ones(0, dtype=dtype)}
    files.check_finite(whole, "file")
    for value in (math.nan, math.inf, -math.inf):
        for place in (0, 500, 999):
            wrong = large.clone()
            wrong[place] = value
            with pytest.raises(DigitError, match=r"^file holds values that are not finite, in b, c: "):
                files.check_finite(whole | {"b": wrong, "c": torch.tensor([math.inf, -math.inf])}, "file")


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


def flipped(data: bytes, place: int, mask: int) -> bytes:
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


@pytest.mark.parametrize("kind", ["json", "bytes"])
def test_every_byte_of_a_file_with_a_checksum_counts(tmp_path, kind):
    path = tmp_path / "file"
    match kind:
        case "json":
            read = files.read_json
            files.write_json_atomic(path, {"id": "a" * 64, "numbers": [1, 2.5], "name": "ä"}, checksum=True)
        case "bytes":
            read = files.read_bytes
            files.write_bytes_atomic(path, b"anything")
    whole = path.read_bytes()
    read(path)
    for place in range(len(whole)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            path.write_bytes(flipped(whole, place, mask))
            with pytest.raises(DigitError) as caught:
                read(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_checksum_guards_is_read_without_it(tmp_path):
    path = tmp_path / "a.json"
    files.write_json_atomic(path, {"a": 1}, checksum=True)
    assert files.read_json(path) == {"a": 1}
    lines = path.read_text().splitlines(keepends=True)
    assert "checksum" in lines[1]
    path.write_text("".join(lines[:1] + lines[2:]).replace("1", "2"))
    assert files.read_json(path) == {"a": 2}, "a change of one's own: its line is taken out"
    files.write_bytes_atomic(tmp_path / "b", b"some")
    assert files.read_bytes(tmp_path / "b") == b"some"


def test_a_locked_folder_is_one_commands_and_left_clean(tmp_path, monkeypatch):
    with files.locked(tmp_path, "taken"):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(DigitError, match="taken"), files.locked(tmp_path, "taken"):
            pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), files.locked(tmp_path, "taken"):
        raise KeyboardInterrupt
    with files.locked(tmp_path, "taken"):
        pass


def test_another_process_is_kept_out(tmp_path):
    """Also by the file that takes the lock's place; one that was killed keeps nobody out."""
    hold = (
        "import sys, time; from digit.files import locked\n"
        "with locked(sys.argv[1], 'taken'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(DigitError, match="taken"), files.locked(tmp_path, "taken"):
            pass
        with pytest.raises(DigitError, match="taken"):
            files.refuse_locked(tmp_path, "taken")
        other.kill()
    before = sorted(tmp_path.iterdir())
    files.refuse_locked(tmp_path, "taken")
    assert sorted(tmp_path.iterdir()) == before == [tmp_path / ".lock"], "nothing is written"
    with files.locked(tmp_path, "taken"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, capsys, number):
    def without_locks(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with files.locked(tmp_path, "taken"):
        warned = capsys.readouterr().err
        assert "without locks" in warned and str(tmp_path) in warned and len(warned.splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir()] == [".lock-process"]
        with pytest.raises(DigitError, match="taken"), files.locked(tmp_path, "taken"):
            pass
    assert not list(tmp_path.iterdir())
    (tmp_path / ".lock-process").write_text(f"{2**22 + 1}\n{socket.gethostname()}\n")  # who is gone
    with files.locked(tmp_path, "taken"):
        pass


def test_a_platform_without_flock_starts():
    """As Windows is: nothing of ours imports fcntl."""
    code = "import sys; sys.modules['fcntl'] = None; import digit.run.main, digit.pipeline, digit.run.dry_run"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

import errno
import os
import stat
import subprocess
import sys

import pytest
import torch

from digit import files
from digit.errors import DigitError
from digit.tensors import write_safetensors_atomic


def test_a_block_that_raises_changes_nothing(tmp_path):
    files.write_text_atomic(tmp_path / "a.txt", "old")

    def fails():
        with files.atomic_file(tmp_path / "a.txt") as file:
            file.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_folders_replace_folders(tmp_path):
    for text in ("one", "two"):
        with files.atomic_folder(tmp_path / "deep/folder") as temporary:
            (temporary / "file").write_text(text)
    assert (tmp_path / "deep/folder/file").read_text() == "two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["folder"]


def test_clean_up_takes_temporaries_only(tmp_path):
    (tmp_path / ".tmp-x-state").mkdir()
    (tmp_path / ".tmp-y").write_text("")
    (tmp_path / "kept").write_text("")
    assert files.clean_up(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


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


WRITERS = {
    "text": lambda path: files.write_text_atomic(path, "new"),
    "json": lambda path: files.write_json_atomic(path, {"a": 1}, checksum=True),
    "bytes": lambda path: files.write_bytes_atomic(path, b"new"),
    "tensors": lambda path: write_safetensors_atomic(path, {"a": torch.ones(2)}),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("planted", ["link", "hard link", "pipe", "file"])
def test_what_lies_under_the_name_is_replaced_and_not_written_to(tmp_path, kind, planted):
    own, path = tmp_path / "own", tmp_path / "out/file"
    own.write_text("mine")
    path.parent.mkdir()
    match planted:
        case "link":
            path.symlink_to(own)
        case "hard link":
            os.link(own, path)
        case "pipe":
            os.mkfifo(path)
        case "file":
            path.write_text("old")
    WRITERS[kind](path)
    assert own.read_text() == "mine"
    assert path.is_file() and not path.is_symlink() and path.read_bytes() not in (b"mine", b"old")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o007])
@pytest.mark.parametrize("kind", WRITERS)
def test_rights_follow_the_umask(tmp_path, kind, mask):
    before = os.umask(mask)
    try:
        WRITERS[kind](tmp_path / "file")
        with files.atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


def test_what_somebody_else_has_made_meanwhile_stays(tmp_path):
    with (
        pytest.raises(DigitError, match="another command has written"),
        files.atomic_folder(tmp_path / "a") as mine,
    ):
        (mine / "new.txt").write_text("mine")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "old.txt").write_text("theirs")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "old.txt"]


def test_a_temporary_that_is_exchanged_does_not_become_the_file(tmp_path):
    (tmp_path / "own").write_text("mine")

    def exchanged():
        with files.atomic_file(tmp_path / "file") as file:
            file.write(b"new")
            (temporary,) = tmp_path.glob(f"{files.TEMPORARY}*")
            temporary.unlink()
            os.link(tmp_path / "own", temporary)

    with pytest.raises(OSError, match="another file in its place"):
        exchanged()
    assert not (tmp_path / "file").exists() and (tmp_path / "own").read_text() == "mine"


def test_temporaries_have_names_that_nobody_can_guess(tmp_path, monkeypatch):
    """One that lies there is neither opened nor replaced: another name is taken, or it ends."""
    with files.atomic_file(tmp_path / "a") as one, files.atomic_file(tmp_path / "a") as two:
        assert one.name != two.name or len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
    (tmp_path / "own").write_text("mine")
    (tmp_path / f"{files.TEMPORARY}{'0' * 16}-b").symlink_to(tmp_path / "own")
    with pytest.raises(FileExistsError), files.atomic_file(tmp_path / "b"):
        pass
    assert (tmp_path / "own").read_text() == "mine"


WRITING = """
import sys, time
from digit import files
with files.atomic_file(sys.argv[1] + '/file') as file, files.atomic_folder(sys.argv[1] + '/folder'):
    file.write(b'half'); print('begun', flush=True)
    sys.stdin.readline()
"""


def test_leftovers_go_and_what_is_being_written_stays(tmp_path):
    """Of other processes and of this one."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "begun\n"
        with files.atomic_file(tmp_path / "mine") as file:
            assert files.clean_up(tmp_path) == 0
            file.write(b"whole")
        assert (tmp_path / "mine").read_bytes() == b"whole"
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.wait() == 0
    assert (tmp_path / "file").read_bytes() == b"half" and (tmp_path / "folder").is_dir()
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "begun\n"
        other.kill()
    assert len(list(tmp_path.glob(f"{files.TEMPORARY}*"))) == 2
    assert files.clean_up(tmp_path) == 2
    assert not list(tmp_path.glob(f"{files.TEMPORARY}*"))


def test_planted_leftovers_are_removed_and_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.tmp-a").symlink_to(outside)
    (tmp_path / "out/.tmp-b").symlink_to(outside / "kept")
    os.mkfifo(tmp_path / "out/.tmp-c")
    assert files.clean_up(tmp_path / "out") == 3
    assert not list((tmp_path / "out").iterdir()) and (outside / "kept").read_text() == "mine"


def test_without_locks_what_is_a_day_old_is_a_leftover(tmp_path, monkeypatch):
    def without_locks(*arguments: object, **named: object) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files, "lock_descriptor", without_locks)
    with files.atomic_file(tmp_path / "a") as file:
        file.write(b"whole")
        assert files.clean_up(tmp_path) == 0
    (tmp_path / ".tmp-old").write_text("")
    os.utime(tmp_path / ".tmp-old", (0, 0))
    (tmp_path / ".tmp-new").write_text("")
    assert files.clean_up(tmp_path) == 1 and (tmp_path / ".tmp-new").exists()


@pytest.mark.parametrize("planted", ["link", "pipe"])
def test_a_file_to_append_to_is_a_file(tmp_path, planted):
    (tmp_path / "own").write_text("mine")
    (tmp_path / "log").symlink_to(tmp_path / "own") if planted == "link" else os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError):
        files.open_to_append(tmp_path / "log")
    assert (tmp_path / "own").read_text() == "mine"
    with files.open_to_append(tmp_path / "own") as file:
        file.write(b"\nmore")
    assert (tmp_path / "own").read_text() == "mine\nmore"

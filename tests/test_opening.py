import os
import socket
import stat
import threading
import tracemalloc
from pathlib import Path

import pytest

from digit import opening
from digit.opening import leads_out, name_of, open_regular, read_file, sha256_of


@pytest.fixture
def odd(tmp_path):
    """What a name may be beside a file, by kind."""
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "link to a device").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(tmp_path / "socket"))
        yield tmp_path


KINDS = ["folder", "pipe", "link to a pipe", "link to a device", "circle", "socket", "nothing"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("links", [True, False])
def test_only_files_are_opened_and_nothing_is_waited_for(odd, kind, links):
    with pytest.raises(OSError) as caught:
        open_regular(odd / kind, links=links)
    assert caught.value.strerror and caught.value.filename
    with pytest.raises(OSError):
        read_file(odd / kind, links=links)


def test_what_a_name_is_is_said(odd):
    for kind, said in {
        "pipe": "it is a pipe",
        "link to a device": "it is a device",
        "folder": "a folder",
    }.items():
        with pytest.raises(OSError, match=said):
            open_regular(odd / kind)
    with pytest.raises(OSError, match="it is a link"):
        open_regular(odd / "link to a pipe", links=False)


def test_what_a_name_becomes_after_the_look_is_found_too(odd, monkeypatch):
    """A pipe or a link that takes the file's place between the look and the opening."""
    look = opening._check
    for other in ("pipe", "link"):
        (odd / "x").write_bytes(b"abc")

        def exchanged(found: os.stat_result, path: str | Path, other: str = other) -> None:
            look(found, path)
            if (odd / "x").is_file() and not (odd / "x").is_symlink():
                (odd / "x").unlink()
                os.mkfifo(odd / "x") if other == "pipe" else (odd / "x").symlink_to(odd / "file")

        monkeypatch.setattr(opening, "_check", exchanged)
        before = set(Path("/dev/fd").iterdir())
        with pytest.raises(OSError, match=f"it is a {other}"):
            open_regular(odd / "x", links=False)
        assert set(Path("/dev/fd").iterdir()) == before, "nothing stays open"
        (odd / "x").unlink()


def test_files_and_links_to_them_are_read(odd):
    (odd / "link").symlink_to("file")
    assert read_file(odd / "file") == read_file(odd / "link") == b"abc"
    with pytest.raises(OSError, match="a link"):
        read_file(odd / "link", links=False)


def test_no_more_is_read_than_asked_for(odd):
    assert read_file(odd / "file", most=3) == b"abc"
    with pytest.raises(OSError, match="3 bytes, 2 are the most"):
        read_file(odd / "file", most=2)
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_file("/proc/self/status", most=10)  # says that it has none
    assert read_file("/proc/self/cmdline", most=10**6) == Path("/proc/self/cmdline").read_bytes()


def test_a_bound_costs_no_memory(odd):
    tracemalloc.start()
    try:
        assert read_file(odd / "file", most=2**40) == b"abc"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_name_of_an_open_file_is_that_file_whatever_lies_at_its_path(odd):
    with open_regular(odd / "file") as file:
        (odd / "file").rename(odd / "away")
        (odd / "file").write_bytes(b"another")
        with Path(name_of(file)).open("rb") as again:
            assert again.read() == b"abc"
        assert sha256_of(file).startswith("ba7816bf8f01cfea")


def test_without_names_of_open_files_it_is_the_path(odd, monkeypatch):
    monkeypatch.setattr(opening.Path, "exists", lambda path: False)
    with open_regular(odd / "file") as file:
        assert name_of(file) == str(odd / "file")


def test_platforms_without_flags(odd):
    """As Windows: no O_NONBLOCK, no O_NOFOLLOW; the looks are left."""
    import importlib

    with pytest.MonkeyPatch.context() as patch:
        for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_NOCTTY"):
            patch.delattr(os, name)
        importlib.reload(opening)
        assert opening.read_file(odd / "file") == b"abc"
        with pytest.raises(OSError, match="a pipe"):
            opening.open_regular(odd / "pipe")
    importlib.reload(opening)


def test_leading_out(tmp_path):
    inside, outside = tmp_path / "set", tmp_path / "set-2"
    inside.mkdir()
    outside.mkdir()
    (inside / "a").write_text("")
    (inside / "to a").symlink_to("a")
    (inside / "up").symlink_to("..")
    (inside / "over").symlink_to(outside)
    assert not leads_out(inside / "a", inside) and not leads_out(inside / "to a", inside)
    assert leads_out(inside / "up", inside) and leads_out(inside / "over", inside)
    (tmp_path / "way").symlink_to(inside)
    assert not leads_out(tmp_path / "way" / "to a", tmp_path / "way"), (
        "the set itself may be reached by a link"
    )


def test_threads_read_at_once(odd):
    found = []
    threads = [threading.Thread(target=lambda: found.append(read_file(odd / "file"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"abc"] * 8
    assert stat.S_ISREG((odd / "file").stat().st_mode)

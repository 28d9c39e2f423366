"""digit.weights.hub: a fetch goes on where an earlier attempt stopped, and believes no server."""

import contextlib
import http.server
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from fake_hub import DATA, NAME, PATH, blobs, closed_port

from digit.errors import DigitError
from digit.weights import hub as downloading
from digit.weights.hub import fetch, forget


def fetched(hub, tmp_path, path=PATH, **options) -> Path:
    return fetch("owner/name", path, cache=tmp_path / "cache", endpoint=hub.endpoint, **options)[0]


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 700


def test_what_is_forgotten_is_fetched_anew(hub, tmp_path):
    path = fetched(hub, tmp_path)
    assert path.read_bytes() == DATA and blobs(tmp_path) == [hub.sha256(NAME)]
    fetched(hub, tmp_path)
    assert len(hub.ranges) == 1
    forget(path)
    assert not path.exists() and blobs(tmp_path) == []
    assert fetched(hub, tmp_path).read_bytes() == DATA and len(hub.ranges) == 2


@pytest.mark.parametrize("fault", ["close", "reset"])
def test_interruption_goes_on_where_it_stopped(hub, tmp_path, fault):
    hub.faults = [fault, fault]
    assert fetched(hub, tmp_path).read_bytes() == DATA
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in hub.ranges]
    assert starts[0] == 0 < starts[1] < starts[2] < len(DATA)
    if fault == "close":
        assert starts[1] == len(DATA) // 2


def test_next_run_goes_on_where_the_last_one_stopped(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    hub.faults = ["close", "stall_at_zero"]
    with pytest.raises(DigitError, match="cannot be reached") as error:
        fetched(hub, tmp_path)
    assert one_sentence(error) and "files" in str(error.value)
    assert blobs(tmp_path) == [f"{hub.sha256(NAME)}.partial"]
    assert fetched(hub, tmp_path).read_bytes() == DATA
    assert hub.ranges[-1] == f"bytes={len(DATA) // 2}-" and blobs(tmp_path) == [hub.sha256(NAME)]


def test_the_token_stays_with_the_hub(hub, tmp_path):
    fetched(hub, tmp_path, token="hf_secret")
    for name, token in hub.tokens:  # files are stored on another host
        assert token == (None if name.startswith("stored/") else "Bearer hf_secret"), name
    assert len({name for name, _ in hub.tokens}) == 2


def test_a_server_without_ranges_starts_over(hub, tmp_path):
    hub.faults, hub.ignore_ranges = ["close"], True
    assert fetched(hub, tmp_path).read_bytes() == DATA
    assert len(hub.ranges) == 2


def test_a_file_the_hub_has_not(hub, tmp_path):
    with pytest.raises(DigitError, match=r"holds no other\.pt") as error:
        fetched(hub, tmp_path, "other.pt")
    assert one_sentence(error)


def test_the_hub_in_trouble(hub, tmp_path):
    hub.faults = ["error 503"]
    with pytest.raises(DigitError, match="503") as error:
        fetched(hub, tmp_path)
    assert one_sentence(error)


def test_no_room(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda path: type("", (), {"free": 10})())
    with pytest.raises(DigitError, match="cache") as error:
        fetched(hub, tmp_path)
    assert one_sentence(error) and hub.ranges == []


def test_offline(hub, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    with pytest.raises(DigitError, match="cannot be reached") as error:
        fetch("owner/name", "x.pt", cache=cache, endpoint=f"http://127.0.0.1:{closed_port()}")
    assert one_sentence(error) and "owner/name" in str(error.value) and "files" in str(error.value)
    fetched(hub, tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetched(hub, tmp_path).read_bytes() == DATA  # what is in the cache needs no hub
    with pytest.raises(DigitError, match="OfflineModeIsEnabled") as error:
        fetched(hub, tmp_path, "y.pt")
    assert one_sentence(error)


@contextlib.contextmanager
def lying(announced, sent):
    """The address of a hub that announces these headers and sends what `sent(handler)` writes, and a list."""
    told = {"X-Repo-Commit": "c" * 40, "X-Linked-Etag": f'"{"a" * 64}"', "X-Linked-Size": "1000"} | announced
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

        def do_HEAD(self):
            self.send_response(302)
            for name, value in {
                **told,
                "Location": f"http://localhost:{server.server_port}/stored",
            }.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()

        def do_GET(self):
            asked.append(self.path)
            with contextlib.suppress(OSError):
                sent(self)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def answer(handler, length, *parts, pause=0.0, status=200):
    handler.send_response(status)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    for part in parts:
        handler.wfile.write(part)
        handler.wfile.flush()
        time.sleep(pause)


LIES = {
    "more than announced": lambda handler: answer(handler, None, *[bytes(2**16)] * 2000),
    "other bytes": lambda handler: answer(handler, 1000, bytes(1000)),
    "nothing": lambda handler: answer(handler, 0),
    "half": lambda handler: answer(handler, 1000, bytes(500)),
    "silence": lambda handler: time.sleep(20),
    "no end": lambda handler: answer(handler, 1000, *[b"x"] * 200, pause=0.1),
    "headers without end": lambda handler: [
        (handler.wfile.write(b"HTTP/1.1 200 OK\r\n" if i == 0 else b"A: b\r\n"), time.sleep(0.05))
        for i in range(400)
    ],
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_server_sends_is_bounded_in_bytes_time_and_attempts(tmp_path, monkeypatch, lie):
    for name, value in {"PAUSE": 0.0, "TIMEOUT": 0.3, "ANSWER": 0.5}.items():
        monkeypatch.setattr(downloading, name, value)
    begun = time.monotonic()
    with lying({}, LIES[lie]) as (address, asked), pytest.raises(DigitError) as error:
        fetch("owner/name", "file.bin", cache=tmp_path / "cache", endpoint=address)
    assert one_sentence(error) and time.monotonic() - begun < 15
    assert 1 <= len(asked) <= downloading.ATTEMPTS
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) <= 1001
    assert not list((tmp_path / "cache").rglob("snapshots")), "nothing is linked"
    assert all(path.suffix in (".partial", ".lock") for path in kept)


@pytest.mark.parametrize(
    "announced",
    [
        *({"X-Linked-Size": size} for size in (None, "0", "-5", "many", "9" * 5000)),
        *({"X-Linked-Etag": etag} for etag in (None, '"../../../evil"', '"/evil"', '"A"')),
        *({"X-Repo-Commit": commit} for commit in (None, "../../../evil", "main")),
    ],
)
def test_what_a_server_announces_is_checked_before_a_byte_is_fetched(tmp_path, announced):
    with lying(announced, LIES["nothing"]) as (address, asked), pytest.raises(DigitError) as error:
        fetch("owner/name", "file.bin", cache=tmp_path / "cache", endpoint=address)
    assert one_sentence(error) and not asked
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_attempts_are_counted_also_where_each_gives_something(tmp_path, monkeypatch):
    for name, value in {"PAUSE": 0.0, "PIECE": 10, "IN_ALL": 7}.items():
        monkeypatch.setattr(downloading, name, value)
    few = lying({}, lambda handler: answer(handler, 500, bytes(20), status=206))
    with few as (address, asked), pytest.raises(DigitError):
        fetch("owner/name", "file.bin", cache=tmp_path / "cache", endpoint=address)
    assert len(asked) == 7


def test_another_size_than_is_known_is_not_fetched(hub, tmp_path):
    with pytest.raises(DigitError, match="the published one has 5"):
        fetched(hub, tmp_path, size=5)
    assert hub.ranges == []


def test_the_newest_is_asked_for_and_what_is_there_serves_without_the_hub(hub, tmp_path, monkeypatch):
    path = fetched(hub, tmp_path, newest=True)
    heads = hub.heads
    assert fetched(hub, tmp_path, newest=True) == path and hub.heads == heads + 1 and len(hub.ranges) == 1
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetched(hub, tmp_path, newest=True) == path


def test_where_there_are_no_links_the_file_itself_lies_there(hub, tmp_path, monkeypatch):
    def refused(*arguments):
        raise OSError("no links")

    monkeypatch.setattr(Path, "symlink_to", refused)
    path = fetched(hub, tmp_path)
    assert path.read_bytes() == DATA and not path.is_symlink() and blobs(tmp_path) == []
    assert fetched(hub, tmp_path) == path and len(hub.ranges) == 1


@pytest.mark.parametrize("planted", ["link", "folder"])
def test_what_lies_under_the_name_of_the_unfinished_file_is_not_written_to(hub, tmp_path, planted):
    (tmp_path / "own").write_bytes(b"mine")
    partial = tmp_path / "cache/models--owner--name/blobs" / f"{hub.sha256(NAME)}.partial"
    partial.parent.mkdir(parents=True)
    partial.symlink_to(tmp_path / "own") if planted == "link" else partial.mkdir()
    assert fetched(hub, tmp_path).read_bytes() == DATA
    assert (tmp_path / "own").read_bytes() == b"mine"

"""A Hugging Face hub on the loopback: resolve URLs, redirects to stored files, ranges, interruptions."""

import hashlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal

COMMIT = "c" * 40
PATH = "outputs/run/checkpoint_last.pt"
NAME = f"owner/name/{PATH}"
DATA = bytes(range(256)) * 4096 * 3  # 3 MiB: more than one network read, every half ends inside of it
Fault = Literal["close", "reset", "stall_at_zero", "error 503"]


def blobs(folder: Path) -> list[str]:
    """What a cache in this folder holds of NAME's repository."""
    return sorted(path.name for path in (folder / "cache").glob("models--owner--name/blobs/*"))


@dataclass
class FakeHub:
    """Files by "owner/name/path", and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)  # of the next downloads, one each
    ranges: list[str | None] = field(default_factory=list)  # the Range header of every download
    heads: int = 0
    tokens: list[tuple[str, str | None]] = field(default_factory=list)  # of every request
    ignore_ranges: bool = False
    endpoint: str = ""

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that lives as long as the block."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            hub.heads += 1
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            name = self.path.lstrip("/")
            hub.tokens.append((name, self.headers.get("Authorization")))
            if "/resolve/main/" in name:
                name = name.replace("/resolve/main/", "/")
                if name not in hub.files:
                    self.head(404, 0, {"X-Repo-Commit": COMMIT, "X-Error-Code": "EntryNotFound"})
                    return
                about = {
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{hub.sha256(name)}"',
                    "X-Linked-Size": str(len(hub.files[name])),
                    "Location": f"http://localhost:{self.server.server_address[1]}/stored/{name}",
                }
                self.head(302, 0, about)
                return
            name = name.removeprefix("stored/")
            data, start = hub.files[name], 0
            if body:
                wanted = self.headers.get("Range")
                hub.ranges.append(wanted)
                if wanted and not hub.ignore_ranges:
                    start = int(wanted.removeprefix("bytes=").split("-")[0])
            fault = hub.faults.pop(0) if body and hub.faults else None
            if fault == "error 503":
                self.head(503, 0, {})
                return
            self.head(206 if start else 200, len(data) - start, {"ETag": f'"{hub.sha256(name)}"'})
            if not body or fault == "stall_at_zero":
                self.close_connection = self.close_connection or fault is not None
                return
            if fault is None:
                self.wfile.write(data[start:])
                return
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.wfile.flush()
            self.close_connection = True
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        def head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(key, value)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

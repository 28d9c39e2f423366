"""A Hugging Face hub on the loopback: resolve URLs, redirects, ranges, interruptions; and uploads."""

import base64
import hashlib
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import huggingface_hub
import pytest

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
    writer: str | None = None  # the token that may write; None: nobody may
    made: list[dict[str, Any]] = field(default_factory=list)  # repositories, as they were asked for
    objects: dict[str, bytes] = field(default_factory=dict)  # uploaded, by sha256
    status: int = 0  # of the answer to any commit, if not 0

    def be_the_hub(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """What the hub's client takes for the hub, with a cache of its own and a token that may write."""
        self.writer, constants = "hf_writer", huggingface_hub.constants
        place = f"{self.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        own = {"ENDPOINT": self.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": place, "HF_HUB_CACHE": str(cache)}
        for name, value in {**own, "HF_HUB_DISABLE_XET": True}.items():  # xet's servers are not at hand
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", self.writer)

    def branch(self, repository: str, revision: str) -> str:
        """How the names of a revision's files begin; a commit is that of its branch."""
        branches = {name.split("/")[1].partition("@")[2] for name in self.files}
        known = {commit_of(branch): branch for branch in branches if branch}
        revision = known.get(revision, "main" if revision == COMMIT else revision)
        return repository if revision == "main" else f"{repository}@{revision}"

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()


def commit_of(revision: str) -> str:
    """The commit that a branch stands at, or a commit itself."""
    if revision in ("main", COMMIT) or len(revision) == 40:
        return COMMIT if revision == "main" else revision
    return hashlib.sha1(revision.encode()).hexdigest()


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
            if name.startswith("api/"):  # whether a repository is there that nobody may make
                self.head(401, 0, {})
                return
            if "/resolve/" in name:
                repository, _, rest = name.partition("/resolve/")
                revision, _, path = rest.partition("/")
                name = f"{hub.branch(repository, revision)}/{path}"
                if name not in hub.files:
                    self.head(404, 0, {"X-Repo-Commit": COMMIT, "X-Error-Code": "EntryNotFound"})
                    return
                about = {
                    "X-Repo-Commit": commit_of(revision),
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

        def do_PUT(self) -> None:
            if "Content-Length" in self.headers:
                data = self.rfile.read(int(self.headers["Content-Length"]))
            else:  # in chunks, each after its size
                chunks = iter(lambda: self.rfile.read(int(self.rfile.readline(), 16) + 2)[:-2], b"")
                data = b"".join(chunks)
            hub.objects[self.path.rpartition("/")[2]] = data
            self.reply({})

        def do_POST(self) -> None:
            """Answers to an upload by the hub's client: repository, branch, what goes where, the commit."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != f"Bearer {hub.writer}":
                self.reply({"error": "who are you"}, 401)
            elif self.path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            elif self.path == "/api/repos/create":
                hub.made.append(json.loads(body))
                self.reply({"url": f"{hub.endpoint}/{hub.made[-1]['organization']}/{hub.made[-1]['name']}"})
            elif "/branch/" in self.path:
                self.reply({})
            elif "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(body)["files"]]
                mode = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
                files = [{"path": p, "uploadMode": mode[p], "shouldIgnore": False} for p in paths]
                self.reply({"files": files})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                for each in objects:
                    each["actions"] = {"upload": {"href": f"{hub.endpoint}/objects/{each['oid']}"}}
                self.reply({"objects": objects, "transfer": "basic"})
            elif "/commit/" in self.path and hub.status:
                self.reply({"error": "no"}, hub.status)
            elif "/commit/" in self.path:
                _, _, _, owner, name, _, revision = self.path.split("/")
                start = f"{owner}/{name}" if revision == "main" else f"{owner}/{name}@{revision}"
                for line in body.splitlines():
                    entry = json.loads(line)
                    value, kind = entry["value"], entry["key"]
                    if kind == "file":
                        hub.files[f"{start}/{value['path']}"] = base64.b64decode(value["content"])
                    elif kind == "lfsFile":
                        hub.files[f"{start}/{value['path']}"] = hub.objects[value["oid"]]
                address = f"{hub.endpoint}/{owner}/{name}/commit/{commit_of(revision)}"
                self.reply({"commitUrl": address, "commitOid": commit_of(revision)})
            else:
                self.reply({"error": "what"}, 404)

        def reply(self, value: dict[str, Any], status: int = 200) -> None:
            data = json.dumps(value).encode()
            self.head(status, len(data), {"Content-Type": "application/json"})
            self.wfile.write(data)

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

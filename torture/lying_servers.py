"""T25: a hub on the loopback that lies about sizes and names, sends too much, nothing, or something else."""

import contextlib
import gzip
import hashlib
import json
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub

from digit.errors import DigitError
from digit.weights import hub, official
from digit.weights.model_folder import locate
from torture.children import Child
from torture.guard import Canaries, Ended, Tally, Tree, apart
from torture.outcome import About, Outcome

ABOUT = About(
    what="files and models fetched from a server whose sizes, hashes, names and redirects lie, that sends "
    "too much, too little, something else, compressed or nothing, for ever or at its first answers only; "
    "timeouts are 1.5 s",
    goal="one sentence, or the announced bytes; 0 hangs, nothing written outside the cache, nothing kept but "
    "what was announced",
    full=200,
    short=24,
)
DATA = bytes(range(256)) * 40  # what is published
SHA256 = hashlib.sha256(DATA).hexdigest()
COMMIT = "c" * 40
FILE = official.OfficialFile("owner/name", "folder/weights.bin", len(DATA), SHA256)
PATIENCE = 1.5  # seconds without a byte, in place of digit's own
FLOOD = 64 * 2**20  # bytes that a server sends where it sends too much
ROOM = 4 * 2**20  # bytes that a cache may hold beside what was announced

Answer = Callable[[BaseHTTPRequestHandler], None]


def _send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def about(**lies: str | None) -> Answer:
    """What the hub says of a file before it is fetched; None leaves a line out."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        told: dict[str, str | None] = {
            "X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{SHA256}"', "X-Linked-Size": str(len(DATA)),
            "Location": f"http://localhost:{handler.headers['Host'].rpartition(':')[2]}/stored",
            "Content-Length": "0",
        }  # fmt: skip
        told |= {name.replace("_", "-"): value for name, value in lies.items()}
        _send(handler, 302, {name: value for name, value in told.items() if value is not None})

    return answer


def body(data: bytes, *, status: int = 200, **headers: str) -> Answer:
    """An answer of some bytes."""
    told = {
        "Content-Length": str(len(data)),
        "ETag": f'"{SHA256}"',
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    return lambda handler: _send(handler, status, told, data)


def flood(handler: BaseHTTPRequestHandler) -> None:
    """Far more than was announced, without saying how much."""
    handler.close_connection = True
    _send(handler, 200, {"Connection": "close"})
    with contextlib.suppress(OSError):
        for _ in range(0, FLOOD, 2**16):
            handler.wfile.write(bytes(2**16))


def head_flood(handler: BaseHTTPRequestHandler) -> None:
    """Headers without an end."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for i in range(10**6):
            handler.wfile.write(b"X-%d: %s\r\n" % (i, b"x" * 1000))


def silence(handler: BaseHTTPRequestHandler) -> None:
    """No answer."""
    handler.close_connection = True
    time.sleep(30)


def stop_after(count: int) -> Answer:
    """The beginning of the file, and then nothing more on an open connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with contextlib.suppress(OSError):
            _send(handler, 200, {"Content-Length": str(len(DATA))}, DATA[:count])
            handler.wfile.flush()
            time.sleep(30)

    return answer


def reset(handler: BaseHTTPRequestHandler) -> None:
    """The connection ends at once."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


def garbage(handler: BaseHTTPRequestHandler) -> None:
    """No HTTP."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.wfile.write(b"\x1b[31m" + bytes(1000) + b"\r\n\r\n")


def round_and_round(handler: BaseHTTPRequestHandler) -> None:
    """Sent on and on."""
    _send(handler, 302, {"Location": f"{handler.path}x", "Content-Length": "0"})


METADATA: dict[str, Answer] = {
    "true": about(),
    "another sha256": about(X_Linked_Etag=f'"{"0" * 64}"'),
    "a path for a sha256": about(X_Linked_Etag='"../../../../evil"'),
    "an absolute path for a sha256": about(X_Linked_Etag='"/tmp/evil"'),
    "no sha256": about(X_Linked_Etag=None),
    "a path for a commit": about(X_Repo_Commit="../../../../evil"),
    "no commit": about(X_Repo_Commit=None),
    "a small size": about(X_Linked_Size="10"),
    "a large size": about(X_Linked_Size=str(10**15)),
    "no size": about(X_Linked_Size=None),
    "a negative size": about(X_Linked_Size="-5"),
    "a text for a size": about(X_Linked_Size="\x1b[31mmany"),
    "a number of 5,000 digits": about(X_Linked_Size="9" * 5000),
    "sent to a file": about(Location="file:///etc/passwd"),
    "sent to a closed port": about(Location="http://127.0.0.1:9/x"),
    "sent on for ever": round_and_round,
    "silence": silence,
    "headers without end": head_flood,
    "the connection ends": reset,
    "no HTTP": garbage,
    "error 500": body(b"\x1b[31m" + b"x" * 10**5, status=500),
    "error 429": body(b"", status=429, Retry_After="99999"),
    "error 404": body(b"{}", status=404, X_Error_Code="EntryNotFound"),
    "error 401": body(b"", status=401, X_Error_Message="\x1b[31m" * 100),
}
CONTENT: dict[str, Answer] = {
    "true": body(DATA),
    "too much": flood,
    "too much, and said": body(DATA * 4000),
    "nothing": body(b""),
    "no content": body(b"", status=204),
    "an end at half": stop_after(len(DATA) // 2),
    "half, and said": body(DATA[: len(DATA) // 2]),
    "other bytes": body(DATA[::-1]),
    "another part": body(DATA[100:], status=206, Content_Range=f"bytes 100-{len(DATA) - 1}/{len(DATA)}"),
    "an empty part, again and again": body(b"", status=206, Content_Range="bytes 0-0/0"),
    "compressed a thousandfold": lambda handler: _bomb(handler),
    "silence": silence,
    "the connection ends": reset,
    "no HTTP": garbage,
    "headers without end": head_flood,
    "sent on for ever": round_and_round,
    "error 503": body(b"", status=503),
    "error 416": body(b"", status=416),
}


def _bomb(handler: BaseHTTPRequestHandler) -> None:
    """Bytes that are a thousand times as many when they are unpacked."""
    body(gzip.compress(bytes(300 * 2**20), 1), Content_Encoding="gzip")(handler)


def files_of_a_model(names: list[Any]) -> Answer:
    """What the hub says that a repository holds."""
    told = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
    tree = [{"type": "file", "path": name, "oid": "a" * 40, "size": len(DATA)} for name in names]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        content = tree if "/tree/" in handler.path else told
        body(json.dumps(content).encode(), Content_Type="application/json")(handler)

    return answer


REPOSITORY: dict[str, Answer] = {
    "true": files_of_a_model(["config.json"]),
    "names that leave the folder": files_of_a_model(["../../../../evil", "config.json"]),
    "absolute names": files_of_a_model(["/tmp/torture-evil", "config.json"]),
    "names of other types": files_of_a_model([None, 5, {"a": 1}]),
    "a list": body(b"[]", Content_Type="application/json"),
    "no JSON": body(b"\x1b[31m{", Content_Type="application/json"),
    "JSON of great depth": body(b"[" * 10**5, Content_Type="application/json"),
    "an answer without end": flood,
    "nothing": body(b""),
    "silence": silence,
    "the connection ends": reset,
    "error 500": body(b"", status=500),
    "error 401": body(b"", status=401),
}


@contextlib.contextmanager
def server(metadata: Answer, content: Answer, repository: Answer, *, honest_after: int) -> Iterator[str]:
    """A hub in a process of its own; after so many answers it lies no more. Its address."""

    def serve(pipe: int) -> None:
        answered = [0]

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                answered[0] += 1
                lies = answered[0] <= honest_after
                if "/api/" in self.path:
                    (repository if lies else REPOSITORY["true"])(self)
                elif "/resolve/" in self.path:
                    (metadata if lies else METADATA["true"])(self)
                else:
                    (content if lies else CONTENT["true"])(self)

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
            listening.daemon_threads = True
            os.write(pipe, b"%d\n" % listening.server_address[1])
            listening.serve_forever()

    child = Child(serve)
    try:
        yield f"http://127.0.0.1:{child.line()}"
    finally:
        child.close()


def hurry() -> None:
    """Wait for a server no longer than PATIENCE, and pause no more between attempts."""
    hub.TIMEOUT, hub.ANSWER = PATIENCE, 2 * PATIENCE
    client: Any = type(huggingface_hub.get_session())
    build = client.build_request

    def soon(*arguments: Any, **options: Any) -> Any:
        request = build(*arguments, **options)
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), PATIENCE)
        return request

    client.build_request = soon
    sleep = time.sleep

    def briefly(seconds: float) -> None:
        sleep(min(seconds, 0.01))

    time.sleep = briefly


def fetching(way: str, address: str, cache: Path) -> Ended:
    """A file or a model by one of the ways that digit fetches them."""

    def work() -> int:
        hurry()
        # The client's functions have read these when they were imported.
        for place in (huggingface_hub.constants, huggingface_hub.hf_api, huggingface_hub.file_download):
            for name in ("ENDPOINT", "HF_HUB_CACHE"):
                if hasattr(place, name):
                    setattr(place, name, address if name == "ENDPOINT" else str(cache))
        huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE = (
            address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        try:
            if way == "model":
                folder = locate("owner/name")
                _check([path for path in folder.rglob("*") if path.is_file()], cache)
            elif way == "fetch":
                path, _ = hub.fetch(FILE.repo, FILE.path, cache=cache, endpoint=address)
                _check([path], cache)
            else:
                path = official.download(FILE, cache=cache, endpoint=address).path
                if path.read_bytes() != DATA:
                    raise RuntimeError("other bytes than those published were taken")
        except DigitError as error:
            print(f"digit: {error}")
            return 2
        return 0

    return apart(work)


def _check(paths: list[Path], cache: Path) -> None:
    for path in paths:
        if not path.resolve().is_relative_to(cache.resolve()):
            raise RuntimeError(f"{path} lies outside the cache")


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` servers, each lying in one of its answers or in two, for ever or at first."""
    outcome, tally, draw = Outcome(), Tally(), random.Random(seed)
    cache, canaries = folder / "out" / "cache", Canaries(folder / "canaries")
    (folder / "beside").write_text("a user's own file\n")
    tree = Tree(folder, beside=(folder / "out", folder / "canaries"))
    for _ in range(cases):
        shutil.rmtree(cache.parent, ignore_errors=True)
        cache.mkdir(parents=True)
        way = draw.choice(("fetch", "download", "download", "model"))
        lies = draw.choice(
            ("metadata", "content", "content", "both") if way != "model" else ("repository", "content")
        )
        chosen = {
            "metadata": draw.choice(list(METADATA)) if lies in ("metadata", "both") else "true",
            "content": draw.choice(list(CONTENT)) if lies in ("content", "both") else "true",
            "repository": draw.choice(list(REPOSITORY)) if lies == "repository" else "true",
        }
        honest_after = draw.choice((10**9, 10**9, 2))
        answers = METADATA[chosen["metadata"]], CONTENT[chosen["content"]], REPOSITORY[chosen["repository"]]
        with server(*answers, honest_after=honest_after) as address:
            ended = fetching(way, address, cache)
        told = ", ".join(f"{part}: {lie}" for part, lie in chosen.items() if lie != "true") or "no lie"
        name = f"{way}, {told}{', at first' if honest_after == 2 else ''}"
        tally.take(outcome, name, ended, codes=(0,) if told == "no lie" and way != "model" else (0, 2))
        tally.note(outcome, name, programs=canaries.take(), touched=tree.changes())
        held = sum(path.lstat().st_size for path in folder.joinpath("out").rglob("*") if path.is_file())
        outcome.check(held <= len(DATA) + ROOM, f"{name}: {held:,} bytes were kept")
        wrong = ended.code == 2 and [path for path in cache.rglob("snapshots/*/*/*") if path.exists()]
        outcome.check(not wrong, f"{name}: refused, and linked into the cache all the same: {wrong}")
    shutil.rmtree(cache.parent, ignore_errors=True)
    outcome.figures = tally.figures()
    return outcome

"""How copies of valid files are made hostile: what is changed, and what is sealed again."""

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from digit.files import read_json, sha256_file
from torture import mutations

Change = Callable[[Path, random.Random], str]  # makes a copy hostile, and says where


def write_json(path: Path, draw: random.Random, keep: Sequence[str] = ()) -> None:
    """Change a JSON file and seal it again; `keep` are names at its top that stay."""
    value = read_json(path)
    lying = mutations.mutated({k: v for k, v in value.items() if k not in keep}, draw)
    if keep and isinstance(lying, dict):
        lying |= {name: value[name] for name in keep}
    path.write_bytes(mutations.as_text(lying, draw))


def json_files(pattern: str) -> Change:
    """One of the JSON files that the pattern finds, changed."""

    def change(folder: Path, draw: random.Random) -> str:
        path = draw.choice(sorted(folder.glob(pattern)))
        write_json(path, draw)
        return str(path.relative_to(folder))

    return change


def listed(pattern: str, inner: Callable[[bytes, random.Random], bytes], *, also: float = 0.15) -> Change:
    """A file that a JSON beside it names with its sha256: changed, and named with its new one.

    also: how often the JSON lies too.
    """

    def change(folder: Path, draw: random.Random) -> str:
        path = draw.choice(sorted(folder.glob(pattern)))
        path.write_bytes(inner(path.read_bytes(), draw))
        notes = [name for name in ("config.json", "meta.json", "state.json") if (path.parent / name).exists()]
        note = path.parent / (notes[0] if notes else f"{path.stem}.json")
        value = read_json(note)
        digest = sha256_file(path)
        if "files" in value:
            value["files"][path.name] = digest
        else:
            value["sha256"] = digest
        if draw.random() < also:
            kept = {"files": value["files"]} if "files" in value else {"sha256": digest}
            other = mutations.mutated({k: v for k, v in value.items() if k not in kept}, draw)
            value = other | kept if isinstance(other, dict) else kept
        note.write_bytes(mutations.sealed(mutations.dumped(value)))
        return str(path.relative_to(folder))

    return change


def plain(pattern: str, inner: Callable[[bytes, random.Random], bytes]) -> Change:
    """A file that nothing else names, changed."""

    def change(folder: Path, draw: random.Random) -> str:
        path = draw.choice(sorted(folder.glob(pattern)))
        path.write_bytes(inner(path.read_bytes(), draw))
        return str(path.relative_to(folder))

    return change


def with_digest(data: bytes, draw: random.Random) -> bytes:
    """An .npz of digit's own, whose last 32 bytes are the sha256 of the others."""
    body = mutations.zipped(data[:-32], draw, mutations.npy)
    return body + hashlib.sha256(body).digest()


def lines(data: bytes, draw: random.Random) -> bytes:
    """A log one of whose lines lies."""
    rows = data.splitlines()
    place = draw.randrange(len(rows))
    rows[place] = b" ".join(
        mutations.as_text(mutations.mutated(json.loads(rows[place]), draw), draw).split(b"\n")
    )
    return b"\n".join(rows) + b"\n"


_ODD = (
    "\0", "\x1b[2J", "\u202e", "9" * 5000, "[" * 3000, '"' * 3, "x" * 200_000, "nan", "-1", "1e999",
    "../../x", "", "\r", "\ufeff", "true", "1979-05-27", "{a = {a = 1}}", ",,,,", ";", "\t", "#", "=",
)  # fmt: skip


def text(data: bytes, draw: random.Random) -> bytes:
    """A table or settings in text: a field, a line or a byte of it is another, twice there or gone."""
    rows = data.decode().splitlines() or [""]
    place, odd = draw.randrange(len(rows)), draw.choice(_ODD)
    match draw.randrange(7):
        case 0:
            rows[place] = odd
        case 1:
            del rows[place]
        case 2:
            rows.insert(place, rows[draw.randrange(len(rows))])
        case 3 | 4:
            begin, end = sorted(draw.randrange(len(rows[place]) + 1) for _ in range(2))
            rows[place] = rows[place][:begin] + odd + rows[place][end:]
        case 5:
            name, sign, _ = rows[place].partition("=" if "=" in rows[place] else ",")
            rows[place] = name + sign + odd
        case 6:
            found = bytearray("\n".join(rows).encode())
            found[draw.randrange(len(found))] = draw.randrange(256)
            return bytes(found)
    return ("\n".join(rows) + "\n").encode("utf-8", "surrogatepass")


def drawn_lists(folder: Path, draw: random.Random) -> str:
    """A batch's list of pictures that are drawn, or a picture that it lists, with its new sha256."""
    path = draw.choice(sorted((folder / ".drawn").glob("*.json")))
    value = read_json(path)
    if draw.random() < 0.6:
        path.write_bytes(mutations.as_text(mutations.mutated(value, draw), draw))
        return path.name
    picture = folder / draw.choice(list(value["files"]))
    picture.write_bytes(picture_bytes(picture.read_bytes(), draw))
    value["files"][picture.name] = sha256_file(picture)
    path.write_bytes(mutations.sealed(mutations.dumped(value)))
    return picture.name


def picture_bytes(data: bytes, draw: random.Random) -> bytes:
    """Another picture under the same name: a PNG that lies, or a file of another format."""
    if draw.random() < 0.7:
        return mutations.png(data, draw)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    others = [
        eps,
        b"%PDF-1.4\n",
        b"P6 16 16 255\n" + bytes(768),
        b"8BPS\0\1" + bytes(60),
        b"",
        b"GIF89a" + bytes(20),
    ]
    return draw.choice(others)


def pickled(folder: Path, draw: random.Random) -> str:
    """A published file whose content is of other names, types, shapes and strides."""
    path = next(folder.iterdir())
    content = torch.load(path, weights_only=True)
    tensors = content.get("state_dict", content)
    for _ in range(draw.choice((1, 1, 3))):
        name = draw.choice(list(tensors))
        tensors[name] = odd_tensor(tensors[name], draw)
        if draw.random() < 0.2:
            tensors[draw.choice((*mutations.NAMES, 5, None))] = tensors.pop(name)
    if draw.random() < 0.1:
        content = draw.choice([tensors, {"model": tensors, "cfg": {"model": {}}}, [tensors], {}, None, 3])
    with path.open("wb") as file, contextlib.suppress(UnicodeEncodeError):
        torch.save(content, file, _use_new_zipfile_serialization=draw.random() < 0.7)
    return path.name


def odd_tensor(value: Any, draw: random.Random) -> Any:
    """Another one in the place of a tensor; many claim sizes that no bytes carry."""
    if not isinstance(value, torch.Tensor):
        return draw.choice(mutations.VALUES[:60])
    shape = list(value.shape)
    one = torch.zeros(1)
    wide = [
        draw.choice((1, 3, 16, 4096, 2**20, 2**40)) if draw.random() < 0.6 else side for side in shape
    ] or [2**40]
    odd: list[Callable[[], Any]] = [
        lambda: one.as_strided(wide, [0] * len(wide)),
        lambda: value.as_strided(shape, [0] * len(shape)),
        lambda: value.reshape(shape[::-1]),
        lambda: value.flatten(),
        lambda: value.to(
            draw.choice((torch.float16, torch.int64, torch.bool, torch.complex64, torch.bfloat16))
        ),
        lambda: (
            torch.full_like(value, draw.choice((0.0, 1e38, -1.0))) if value.is_floating_point() else value + 9
        ),
        lambda: value * float("nan"),
        lambda: value[:0],
        lambda: value[None],
        lambda: value.to_sparse() if value.is_floating_point() and value.ndim else value,
        lambda: value.to("meta"),
        lambda: draw.choice(mutations.VALUES[:60]),
        lambda: torch.nn.Parameter(value.float()),
    ]
    try:
        return draw.choice(odd)()
    except RuntimeError:
        return one


def only(pattern: str, change: Change) -> Change:
    """The change, of a copy that holds nothing but one of what the pattern finds."""

    def first(folder: Path, draw: random.Random) -> str:
        chosen = draw.choice(sorted(folder.glob(pattern)))
        for path in folder.iterdir():
            if path != chosen:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return change(folder, draw)

    return first

"""Valid content -> content that lies: changed by its structure, so that it is hostile and not damaged."""

import copy
import hashlib
import io
import json
import random
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from digit.files import CHECKSUM

DEEP = 20_000  # lists in lists
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 64, 65_535, 65_536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64,
    10**12, 10**30, 10**400, -(2**63), 0.0, -0.5, 1.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"),
    float("-inf"), "", " ", "0", "1e999", "x" * 3000, "x" * 300_000, "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07", "a\nb\rc", "\0", "\u202egpj", "\ud800", "\U0001f600", "[/red][bold]",
    "[link=file:///etc/passwd]x[/link]", "$\\frac{a}{b$", "%s%n{0}{}", "../../../etc/passwd", "/etc/passwd",
    "/dev/zero", "..", ".", "~", "-", "--out", "C:\\x", "a/b", "hf-hub:a/b", "owner/name@../..", "float16",
    "int8", "bfloat16", [], {}, [[]], [None] * 50, [0] * 5000, ["x"] * 5000, [1, "a", None, {}], {"a": {}},
    {"a": [1]}, {"": 1}, {str(i): i for i in range(2000)}, {"checkpoint_path": "model.safetensors"},
    {"depth": 10**6},
]  # fmt: skip
NAMES = [
    "", "__class__", "__metadata__", "../x", "x" * 5000, "\x1b[31m", "\ud800", "[/red]", "$x_{", "a\nb",
    "\0", "1", "\u00e9", "e\u0301", "checksum", "config", "files", "codes", "model.safetensors", ".", "/",
]  # fmt: skip
DTYPES = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I16",
    "I8",
    "U8",
    "U16",
    "U32",
    "BOOL",
    "F8_E4M3",
    "C64",
    "F4",
    "",
]
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def mutated(value: Any, draw: random.Random) -> Any:
    """JSON's values with one to three places changed, each by lot."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        value = _changed(value, draw)
    return value


def find_places(value: Any, found: list[tuple[Any, Any]]) -> None:
    """Every (container, key) below."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:500]:
        found.append((value, key))
        find_places(inner, found)


def _changed(value: Any, draw: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []
    find_places(value, places)
    if not places or draw.random() < 0.02:
        return draw.choice(VALUES)
    holder, key = draw.choice(places)
    inner = holder[key]
    kind = draw.randrange(12)
    if kind < 5:
        holder[key] = copy.deepcopy(draw.choice(VALUES))
    elif kind == 5:
        del holder[key]
    elif kind == 6:
        holder[key] = draw.choice(
            (lambda: [inner], lambda: {"a": inner}, lambda: str(inner), lambda: [inner] * 3)
        )()
    elif kind == 7 and isinstance(inner, int | float):
        factor = draw.choice((2, -1, 1000, 10**6, 0.5))
        holder[key] = inner * factor + draw.choice((0, 1))
    elif kind == 8 and isinstance(holder, dict):
        name = draw.choice((*NAMES, f"{key} ", str(key).upper(), f"{key}\u0301"))
        holder[name] = holder.pop(key)
    elif kind == 9 and isinstance(holder, dict):
        holder[draw.choice(NAMES)] = copy.deepcopy(draw.choice((inner, *VALUES[:40])))
    elif kind == 10:
        other, place = draw.choice(places)  # two places change places, or one is in both
        holder[key] = copy.deepcopy(
            other.get(place) if isinstance(other, dict) else dict(enumerate(other)).get(place)
        )
    elif isinstance(inner, list) and inner:
        holder[key] = inner * draw.choice((2, 50)) if draw.random() < 0.5 else inner[: len(inner) // 2]
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))
    return value


def as_text(value: Any, draw: random.Random) -> bytes:
    """JSON as digit writes it, its checksum right; rarely a text that no writer makes."""
    if draw.random() < 0.03:
        odd = (
            b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b"\xff\xfe{}", b"", b"null", b'"x"',
            b"1" * 50_000, b"{}", b"[]", b"NaN", b"-Infinity", b'{"a":1e400}', b"\xef\xbb\xbf{}",
            b"{" + b'"a":1,' * 50_000 + b'"b":2}',
        )  # fmt: skip
        return draw.choice(odd)
    text = dumped(value)
    if isinstance(value, dict) and value:
        if draw.random() < 0.08:  # a name twice
            again = dumped({draw.choice(list(value)): draw.choice(VALUES)})
            text = "{\n" + again.removeprefix("{\n").removesuffix("\n}\n") + ",\n" + text.removeprefix("{\n")
        if draw.random() < 0.85:
            return sealed(text)
    return text.encode("utf-8", "surrogatepass")


def dumped(value: Any) -> str:
    """JSON as digit indents it, of whatever numbers."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value, indent=2) + "\n"
    finally:
        sys.set_int_max_str_digits(limit)


def sealed(text: str) -> bytes:
    """The text of an object of JSON under the checksum that its writer would give it."""
    text = text.replace(f'  "{CHECKSUM}":', '  "checksum ":')
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    line = f'{{\n  "{CHECKSUM}": "sha256:{digest}",\n'
    return (line + text.removeprefix("{\n")).encode("utf-8", "surrogatepass")


def safetensors(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file with other names, types, shapes, places or values of tensors."""
    length = struct.unpack("<Q", data[:8])[0]
    head: dict[str, Any] = json.loads(data[8 : 8 + length])
    notes, body = head.pop("__metadata__", {}), data[8 + length :]
    tensors = {name: (about, body[slice(*about["data_offsets"])]) for name, about in head.items()}
    for _ in range(draw.choice((1, 1, 2))):
        _of_tensors(tensors, draw)
    if draw.random() < 0.2:
        notes = mutated(notes or {"format": "pt"}, draw)
    head, body = {}, b""
    for name, (about, part) in tensors.items():
        head[name] = {**about, "data_offsets": [len(body), len(body) + len(part)]}
        body += part
    if draw.random() < 0.25:
        head = mutated(head, draw)
    text = dumped({**({"__metadata__": notes} if notes else {}), **head} if isinstance(head, dict) else head)
    encoded = text.encode("utf-8", "surrogatepass")
    lie = draw.choice((2**63, 2**64 - 1, 2**31, 0, len(encoded) + 8))
    return struct.pack("<Q", lie if draw.random() < 0.04 else len(encoded)) + encoded + body


def _of_tensors(tensors: dict[str, tuple[dict[str, Any], bytes]], draw: random.Random) -> None:
    """One change that leaves header and data of one mind, or nearly."""
    name = draw.choice(list(tensors))
    about, part = tensors[name]
    about = dict(about)
    shape: list[int] = list(about["shape"])
    match draw.randrange(11):
        case 0:
            about["dtype"] = draw.choice(DTYPES)
        case 1:  # of another type, as many bytes as it needs
            about["dtype"] = kind = draw.choice(list(_SIZES))
            count = int(np.prod(shape, dtype=np.int64))
            part = (part * 9)[: count * _SIZES[kind]].ljust(count * _SIZES[kind], b"\0")
        case 2:
            about["shape"] = draw.choice(
                (shape[::-1], [*shape, 1], [1, *shape], shape[:-1], [int(np.prod(shape))])
            )
        case 3:
            about["shape"], part = [0, *shape[1:]], b""
        case 4:  # fewer or more rows
            rows = draw.choice((1, 2, 3, 7, 100))
            row = max(1, len(part) // max(1, shape[0] if shape else 1))
            about["shape"], part = [rows, *shape[1:]], (part * 101)[: rows * row].ljust(rows * row, b"\0")
        case 5:
            about["shape"] = draw.choice(([2**62, 4], [-1], [2**32, 2**32], [10**9], [1] * 5000, ["a"], None))
        case 6:
            odd = (float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45, 0.0)
            part = np.full(len(part) // 4, draw.choice(odd), "<f4").tobytes().ljust(len(part), b"\0")
        case 7:
            part = draw.randbytes(len(part))
        case 8:
            del tensors[name]
            if draw.random() < 0.7 or not tensors:
                tensors[draw.choice((*NAMES, name.upper(), f"{name}.scale", f"x.{name}"))] = about, part
            return
        case 9:
            for i in range(draw.choice((1, 50, 3000))):
                tensors[f"{name}.{i}"] = {**about, "shape": [0], "dtype": "F32"}, b""
        case 10:
            tensors[f"{name}.scale"] = {**about, "dtype": "F32"}, part
    tensors[name] = about, part


def npy(data: bytes, draw: random.Random) -> bytes:
    """An array's file with another header or other numbers."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    about: dict[str, Any] = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    body, version = array.tobytes(), b"\1\0"
    text = None
    match draw.randrange(9):
        case 0:
            kinds = (
                "|O",
                ">f8",
                "<c16",
                "|V8",
                "<U4",
                "<M8[ns]",
                "|b1",
                "<f2",
                ">u2",
                "<u8",
                "<i1",
                "",
                "x",
                [("a", "<f4")],
            )
            about["descr"] = draw.choice(kinds)
        case 1:
            about["descr"] = kind = draw.choice(
                ("<u2", "<i4", "<i8", "<u8", "<f4", "<f8", ">u2", "<c8", "|b1")
            )
            with np.errstate(all="ignore"):  # texts have no numbers to be other ones
                body = body if array.dtype.kind in "US" else array.astype(kind).tobytes()
        case 2:
            shapes: tuple[Any, ...] = (
                (2**40,), (-1,), (0,), (), array.shape[::-1], (*array.shape, 1), array.shape[:-1],
                (2**62, 2**62), ("a",), array.shape * 20, (1,) * 40, (array.size,), None, (2**70,),
            )  # fmt: skip
            about["shape"] = draw.choice(shapes)
        case 3:
            about["fortran_order"] = draw.choice((True, 1, None, "x"))
        case 4:
            text = draw.choice(
                (b"{((((((", b"[" * 2000, b"{'descr': ", b"\xff" * 40, b"", b"{}", b"1", b"__import__('os')")
            )
        case 5:
            version = draw.choice((b"\2\0", b"\3\0", b"\x09\x09", b"\0\0"))
        case 6:
            odd = np.array([65_535, -1, 2**31, 255, 1e30, float("nan")])
            with np.errstate(all="ignore"):
                body = np.full(array.shape, draw.choice(odd.tolist())).astype(array.dtype).tobytes()
        case 7:
            body = body[: len(body) // 2] if draw.random() < 0.5 else body * 3
        case 8:
            body = draw.randbytes(len(body))
    if text is None:
        text = repr(about).encode()
    text = text.ljust(118 - 10) + b"\n"
    size = struct.pack("<H", len(text)) if version == b"\1\0" else struct.pack("<I", len(text))
    if draw.random() < 0.03:
        size = b"\xff" * len(size)
    return b"\x93NUMPY" + version + size + text + body


def zipped(data: bytes, draw: random.Random, inner: Callable[[bytes, random.Random], bytes]) -> bytes:
    """A zip with members renamed, doubled, left out, packed otherwise, or changed by `inner`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    out, packed = (
        io.BytesIO(),
        draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)),
    )
    if draw.random() < 0.7:
        packed = zipfile.ZIP_STORED
    place, kind = draw.randrange(len(members)), draw.randrange(8)
    name, content = members[place]
    if kind < 4:
        members[place] = name, inner(content, draw)
    elif kind == 4:
        odd = (
            draw.choice(NAMES).replace("\ud800", "?"),
            f"../{name}",
            f"/tmp/{name}",
            f"a/{name}",
            name.upper(),
            f"{name}/",
        )
        members[place] = draw.choice(odd) or "x", content
    elif kind == 5:
        members.append((name, inner(content, draw)))
    elif kind == 6:
        del members[place]
    else:
        members.append(("labels.npy", bytes(3_000_000)))
        packed = zipfile.ZIP_DEFLATED
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", packed) as archive:
        warnings.simplefilter("ignore")  # names that come twice are meant
        for each, part in members:
            about = zipfile.ZipInfo("x")
            about.filename, about.compress_type = each, packed
            if draw.random() < 0.02:
                about.external_attr = 0o120777 << 16
            archive.writestr(about, part)
    return out.getvalue()


def png(data: bytes, draw: random.Random) -> bytes:
    """A PNG one of whose parts says something else, its checksum right."""
    parts, place = [], 8
    while place < len(data):
        length = struct.unpack(">I", data[place : place + 4])[0]
        parts.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += length + 12
    chosen = draw.randrange(len(parts))
    kind, content = parts[chosen]
    match draw.randrange(6):
        case 0:
            head = bytearray(parts[0][1])
            head[draw.randrange(len(head))] = draw.choice((0, 1, 2, 3, 4, 6, 8, 16, 64, 127, 255))
            parts[0] = parts[0][0], bytes(head)
        case 1:
            sizes = draw.choice(((0, 0), (1, 1), (2**31 - 1, 1), (60_000, 60_000), (8000, 8000), (16, 17)))
            parts[0] = parts[0][0], struct.pack(">II", *sizes) + parts[0][1][8:]
        case 2:
            parts.insert(chosen, (kind, content))
        case 3:
            more = (
                (b"iCCP", b"a\0\0" + zlib.compress(bytes(10**6))),
                (b"tEXt", b"a\0" + b"b" * 10**5),
                (b"PLTE", b"abc"),
            )
            others = (
                (b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)),
                (b"acTL", struct.pack(">II", 10**9, 0)),
                (b"tRNS", b"\0"),
            )
            parts.insert(1, draw.choice((*more, *others)))
        case 4:
            parts[chosen] = draw.choice((b"IDAT", b"IEND", b"iDOT", b"fcTL", b"fdAT")), content
        case 5:
            pixels = zlib.compress(draw.randbytes(draw.choice((0, 10, 800, 10**5))))
            parts = [(b"IDAT", pixels) if each[0] == b"IDAT" else each for each in parts]
    body = b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts
    )
    return data[:8] + body

"""T12: weights and settings made to do harm, and damaged ones, through every reader of digit."""

import io
import json
import pickle
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from digit.data.codes import Codes
from digit.errors import DigitError
from digit.evaluation.pictures import open_npz
from digit.evaluation.result import read_result
from digit.files import read_json, sha256_file, write_json_atomic
from digit.nn.backbone import create
from digit.pipeline import DigitPipeline
from digit.run.info import info
from digit.run.main import run as command
from digit.tensors import read_safetensors
from digit.training import checkpoint
from digit.training.log import read_status
from digit.weights.artifact import load
from digit.weights.foreign import read
from torture import tiny
from torture.archives import Canary, Watch, damaged
from torture.outcome import About, Outcome

ABOUT = About(
    what="pickles that act (.pt, .ckpt, .npy, .npz), safetensors with false headers, hostile settings, and "
    "damaged files of each kind, through every reader and `digit convert`",
    goal="10,000 cases: no canary acts, nothing is run, 0 crashes, one sentence each",
    full=10_000,
    short=120,
)
SLOW = 10.0  # seconds of one core that a case may take
VALUES: list[Any] = [
    None, True, -1, 0, 3, 2**31, 2**63, 10**30, 1.5, 1e308, "", "x" * 5000, "../../../etc/passwd",
    "hf-hub:a/b", [], {}, [[]], [None] * 50, {"a": {}}, {"checkpoint_path": "model.safetensors"},
    {"depth": 10**6},
]  # fmt: skip


class Suite:
    """A folder of good files, and ways to make bad ones of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Make the good files."""
        self.folder, self.draw = folder, random.Random(seed)
        self.canary = folder / "canary"
        images = tiny.make_pictures(folder / "pictures.zip")
        self.stages = tiny.make_stages(folder / "stages")
        self.model = tiny.make_model(self.stages, folder / "model")
        self.codes = tiny.make_codes(images, self.stages, folder / "codes")
        self.state = tiny.make_state(folder / "state")
        self.result = folder / "result.json"
        parts = {"protocol": "p", "counts": {}, "features": [{}], "values": {"a": 1.0}}
        write_json_atomic(self.result, {"kind": "result", "format": 1, "measurement": "images"} | parts)
        vqgan: Any = load(self.stages["vqgan"])
        tokenizer: Any = load(self.stages["tokenizer"])
        self.weights: dict[str, Any] = {
            "vqgan": {"state_dict": vqgan.state_dict(), "epoch": 3},
            "vit": dict(tokenizer.encoder.state_dict()),
            "checkpoint": {"cfg": {"model": {"_name": "stlm"}}, "model": {"decoder.version": torch.ones(1)}},
        }
        self.seen = 0

    def path(self, suffix: str) -> Path:
        """Another name each time, as some readers keep files open."""
        self.seen += 1
        return self.folder / f"case{self.seen % 7}{suffix}"

    def pickles(self) -> tuple[Callable[[], object], str]:
        """A file that would act if it were unpickled, for a reader or the command."""
        draw = self.draw
        how = Canary(self.canary)
        holding = draw.choice(
            [{"state_dict": {"w": torch.ones(2), "x": how}}, {"model": how, "cfg": {}}, how, [how]]
        )
        kind = draw.choice(("torch", "legacy", "pickle", "npy", "npz", "record"))
        data = io.BytesIO()
        if kind in ("torch", "legacy"):
            torch.save(
                holding,
                data,
                _use_new_zipfile_serialization=kind == "torch",
                pickle_protocol=draw.choice((2, 4)),
            )
        elif kind == "pickle":
            pickle.dump(holding, data, draw.randrange(6))
        elif kind == "npy":
            np.save(data, np.array([how, 1], dtype=object), allow_pickle=True)
        elif kind == "record":
            np.save(data, np.array([(1, how)], dtype=[("a", "f4"), ("b", "O")]), allow_pickle=True)
        else:
            name = draw.choice(("arr_0", "arr_1", "mu", "sigma"))
            np.savez(data, **{name: np.array([how], dtype=object)})  # pyright: ignore[reportArgumentType]
        content = data.getvalue()
        if draw.random() < 0.3:
            content = damaged(content, draw)
        path = self.path(draw.choice((".pt", ".ckpt", ".pth", ".npy", ".npz", ".safetensors", ".bin")))
        path.write_bytes(content)
        return self.reader(path), f"{kind} as {path.suffix}"

    def reader(self, path: Path) -> Callable[[], object]:
        """One of the ways by which such a file comes in."""
        encoder = str(self.stages["vqgan"])
        ways: list[Callable[[], object]] = [
            lambda: read(path),
            lambda: self.convert(path),
            lambda: self.convert(path, "--encoder", encoder),
            lambda: open_npz(path),
            lambda: read_safetensors(path),
            lambda: create("vit_tiny_patch16_224", weights=path.rename(path.with_suffix(".safetensors"))),
        ]
        return self.draw.choices(ways, weights=[5, 4, 1, 2, 1, 0.2])[0]

    def convert(self, path: Path, *more: str) -> None:
        """`digit convert`, whose exit code must be 0 or 2."""
        out = self.folder / "converted"
        code = command(["convert", str(path), "--out", str(out), *more])
        if code == 0:
            for each in out.iterdir():
                each.unlink()
            out.rmdir()
        elif code != 2:
            raise RuntimeError(f"exit code {code}")
        elif out.exists() and any(out.iterdir()):
            raise RuntimeError("something half was left behind")

    def foreign(self) -> tuple[Callable[[], object], str]:
        """A published file, damaged."""
        draw, data = self.draw, io.BytesIO()
        name = draw.choice(list(self.weights))
        torch.save(self.weights[name], data, _use_new_zipfile_serialization=draw.random() < 0.6)
        path = self.path(".pth")
        path.write_bytes(damaged(data.getvalue(), draw))
        return self.reader(path), f"a damaged {name}"

    def headers(self) -> tuple[Callable[[], object], str]:
        """A safetensors file with a header that lies."""
        draw = self.draw
        tensor = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
        lies: list[dict[str, Any]] = [
            {"a": tensor | {"shape": [2**62, 2]}},
            {"a": tensor | {"shape": [-1]}},
            {"a": tensor | {"shape": [2**32, 2**32]}},
            {"a": tensor | {"dtype": draw.choice(("NaN", "F31", "", "I128", None))}},
            {"a": tensor | {"data_offsets": draw.choice(([24, 0], [0, 2**63], [-4, 20], [0, 25], [1], []))}},
            {"a": tensor, "b": tensor},
            {"a": tensor, "b": tensor | {"data_offsets": [12, 36]}},
            {"a": tensor | {"extra": draw.choice(VALUES)}},
            {"a": draw.choice(VALUES)},
            {"__metadata__": draw.choice(VALUES), "a": tensor},
            {f"{i}": tensor | {"shape": [0], "data_offsets": [0, 0]} for i in range(1000)},
            {"a" * 10**5: tensor},
        ]
        text = json.dumps(draw.choice(lies)).encode()
        if draw.random() < 0.15:
            text = draw.choice((b"[" * 10**5, b"{" * 10**5, b'{"a":' * 20_000, b"\xff\xfe", b"{}", b"null"))
        length = (
            len(text) if draw.random() < 0.7 else draw.choice((2**63, 2**64 - 1, 2**31, 0, 1, len(text) + 1))
        )
        data = struct.pack("<Q", length) + text + bytes(draw.choice((0, 24, 36)))
        if draw.random() < 0.3:
            data = damaged(data, draw)
        path = self.path(".safetensors")
        path.write_bytes(data)
        if draw.random() < 0.5:
            return self.reader(path), "a false header"
        return self.inside(
            self.stages[draw.choice(list(self.stages))], "model.safetensors", data
        ), "a false header"

    def inside(self, folder: Path, name: str, data: bytes) -> Callable[[], object]:
        """Read an artifact one of whose files is another, with the checksums that its maker would write."""

        def tried() -> None:
            path, config = folder / name, folder / "config.json"
            before = path.read_bytes(), config.read_bytes()
            try:
                path.write_bytes(data)
                value = read_json(config)
                value["files"][name] = sha256_file(path)
                write_json_atomic(config, value, checksum=True)
                load(folder)
            finally:
                path.write_bytes(before[0])
                config.write_bytes(before[1])

        return tried

    def settings(self) -> tuple[Callable[[], object], str]:
        """JSON with a hostile value at a place by lot, under a checksum that its maker would write."""
        draw = self.draw
        stage = self.stages[draw.choice(list(self.stages))]
        readers: list[tuple[Path, Callable[[], object]]] = [
            (stage / "config.json", lambda: load(stage)),
            (stage / "config.json", lambda: info(str(stage))),
            (self.model / "config.json", lambda: DigitPipeline.from_pretrained(self.model)),
            (self.model / "config.json", lambda: info(str(self.model))),
            (self.codes / "meta.json", self.read_codes),
            (self.codes / "meta.json", lambda: info(str(self.codes))),
            (self.state / "state.json", lambda: checkpoint.load(self.state)),
            (self.result, lambda: read_result(self.result)),
        ]
        path, reading = draw.choice(readers)
        before = path.read_bytes()
        if draw.random() < 0.1:
            text = draw.choice(
                (b"[" * 10**5, b'{"a":' * 10**5, b"\xff", b"", b"NaN", b"[]", b'"x"', b"1" * 10**5)
            )
            return self.replaced(path, before, lambda: path.write_bytes(text), reading), path.name
        value = hostile(read_json(path), draw)

        def write() -> None:
            if draw.random() < 0.5 and isinstance(value, dict) and value:
                write_json_atomic(path, value, checksum=True)
            else:
                path.write_text(json.dumps(value))

        return self.replaced(path, before, write, reading), f"{path.name} of {path.parent.name}"

    def replaced(
        self, path: Path, before: bytes, write: Callable[[], object], reading: Callable[[], object]
    ) -> Callable[[], object]:
        """Write, read, and put back what was there."""

        def tried() -> None:
            try:
                write()
                reading()
            finally:
                path.write_bytes(before)

        return tried

    def read_codes(self) -> None:
        """Open codes and read all of them."""
        codes = Codes(self.codes)
        for name in ("codes", "vq_codes"):
            codes.array(name), codes.vocabulary(name), codes.length(name), list(codes.blocks(name))
        codes.lineage("codes")

    def arrays(self) -> tuple[Callable[[], object], str]:
        """Codes whose arrays are pickles or of another form, with checksums that fit."""
        draw, data = self.draw, io.BytesIO()
        name = draw.choice(("codes.npy", "vq_codes.npy", "labels.npy"))
        arrays: list[np.ndarray] = [
            np.array([Canary(self.canary)] * 24, dtype=object), np.zeros(24), np.zeros((24, 2)),
            np.zeros((3, 2, 1), np.uint16),
            np.zeros((24, 2, 16), np.float32), np.zeros((0, 2, 16), np.uint16), np.zeros((24, 2, 16), ">u2"),
            np.array(["a"] * 24), np.asfortranarray(np.zeros((24, 2, 16), np.uint16)),
        ]  # fmt: skip
        np.save(data, draw.choice(arrays), allow_pickle=True)
        content = data.getvalue() if draw.random() < 0.7 else damaged(data.getvalue(), draw)
        path, meta = self.codes / name, self.codes / "meta.json"
        before, description = path.read_bytes(), meta.read_bytes()

        def tried() -> None:
            try:
                path.write_bytes(content)
                value = read_json(meta)
                value["files"][name] = sha256_file(path)
                write_json_atomic(meta, value, checksum=True)
                self.read_codes()
            finally:
                path.write_bytes(before)
                meta.write_bytes(description)

        return tried, f"{name} of codes"

    def status(self) -> tuple[Callable[[], object], str]:
        """A status file with other content."""
        path = self.folder / "status.json"
        path.write_text(
            json.dumps(self.draw.choice([*VALUES, {"step": "x"}, {"step": 1, "steps": [], "reason": 1}]))
        )
        return lambda: read_status(self.folder), "status.json"

    def npz(self) -> tuple[Callable[[], object], str]:
        """A file of pictures or statistics that lies."""
        draw, path = self.draw, self.path(".npz")
        arrays: dict[str, np.ndarray] = {
            "arr_0": draw.choice([np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4), np.uint8), np.zeros(3)]),
            "mu": draw.choice([np.zeros(3), np.zeros((2, 2)), np.array("x")]),
            "sigma": np.zeros((3, 3)),
        }
        data = io.BytesIO()
        np.savez(data, **{name: arrays[name] for name in draw.sample(list(arrays), 2)})  # pyright: ignore[reportArgumentType]
        content = data.getvalue()
        if draw.random() < 0.7:
            content = damaged(content, draw)
        if draw.random() < 0.1:
            with zipfile.ZipFile(data := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
                shape = b"'shape': (99999999, 64, 64, 3), }"
                head = b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, " + shape
                archive.writestr("arr_0.npy", head.ljust(127) + b"\n")
            content = data.getvalue()
        path.write_bytes(content)

        def tried() -> None:
            opened = open_npz(path, 1)
            if opened.n:
                next(iter(opened.batches))

        return tried, "npz"


def hostile(value: Any, draw: random.Random) -> Any:
    """The value with one part of it replaced, removed or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        copy = dict(value)
        key = draw.choice(list(copy))
        match draw.randrange(8):
            case 0:
                del copy[key]
            case 1:
                copy[draw.choice(("unknown", "", "../x", "__class__"))] = draw.choice(VALUES)
            case 2:
                copy[key] = draw.choice(VALUES)
            case _:
                copy[key] = hostile(copy[key], draw)
        return copy
    if isinstance(value, list) and value and draw.random() < 0.5:
        return [*value[:-1], hostile(value[-1], draw)]
    return draw.choice(VALUES)


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` files, of each kind by lot."""
    outcome, suite, watch = Outcome(), Suite(folder, seed), Watch()
    kinds = [
        suite.pickles,
        suite.foreign,
        suite.headers,
        suite.settings,
        suite.arrays,
        suite.status,
        suite.npz,
    ]
    weights = [25, 20, 20, 25, 5, 2, 5]
    accepted, slowest = 0, 0.0
    for i in range(cases):
        tried, what = suite.draw.choices(kinds, weights)[0]()
        watch.seen = []
        begun = time.process_time()
        try:
            watch.unpickling = True
            tried()
            accepted += 1
        except DigitError as error:
            outcome.check(
                "\n" not in str(error) and len(str(error)) < 2000, f"case {i}, {what}: {str(error)[:300]!r}"
            )
        except BaseException as error:
            outcome.lost(f"case {i}, {what}: {type(error).__name__}: {str(error)[:200]}")
        finally:
            watch.unpickling = False
        seconds = time.process_time() - begun
        slowest = max(slowest, seconds)
        outcome.check(seconds < SLOW, f"case {i}, {what}: {seconds:.1f} s")
        outcome.check(not watch.seen, f"case {i}, {what} did {watch.seen[:2]}")
        if suite.canary.exists():
            outcome.lost(f"case {i}, {what}: the canary acted")
            suite.canary.unlink()
    outcome.cases = cases
    outcome.figures = {"refused": cases - accepted - len(outcome.losses), "slowest, s": slowest}
    return outcome

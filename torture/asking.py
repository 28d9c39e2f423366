"""T24: files that ask for more than their bytes carry, in settings, shapes, counts, archives and texts."""

import io
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digit.files import read_json, sha256_file
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig
from digit.weights.vit import vit_layout
from torture import mutations
from torture.guard import Canaries, Ended, Tree, by_lot, digit
from torture.outcome import About, Outcome
from torture.specimens import FAIRSEQ, TRAIN, drawing, make_specimens

ABOUT = About(
    what="pickles whose tensors are all one number, settings that ask for 10^3 to 10^30 parts beside as many "
    "empty tensors, codes of any vocabulary, npz and npy that inflate, headers and JSON of up to 100 MB",
    goal="each refused within 2 s of a core and 1 GB, or done; 0 hangs",
    full=200,
    short=6,
)
NUMBERS = (10**3, 6 * 10**4, 10**5, 2**24, 2**31, 10**12, 10**30)
EMPTIES = 60_000  # tensors without a number, in 4 MB of header


class Suite:
    """Good files and how they come to ask for more."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Make the good files."""
        self.draw, self.folder = random.Random(seed), folder
        self.there = make_specimens(folder / "specimens")
        self.given, self.out = folder / "given", folder / "out"
        self.canaries = Canaries(folder / "canaries")
        self.tree = Tree(folder, beside=(self.given, self.out, folder / "canaries"))

    def digit(self, line: str) -> Ended:
        """A command line."""
        return digit(*line.split(), canaries=self.canaries)

    def pickle(self) -> tuple[str, Callable[[], Ended]]:
        """A published file whose tensors share one number: stride 0 makes any shape of 4 bytes."""
        kind = self.draw.choice(("vit", "vqgan", "fairseq"))
        more = ""
        if kind == "vit":
            width, depth = self.draw.choice((1024, 8192, 2**17)), self.draw.choice((3, 24, 400))
            layout = vit_layout(width, depth, patch=4, positions=17, scaled=False, mask_token=False)
            content: Any = {name: wide(shape) for name, shape in layout.items()}
            name, more = f"a ViT of {width} channels and {depth} blocks", "--encoder-heads 2 --image-size 16"
        elif kind == "vqgan":
            width = self.draw.choice((1024, 4096, 2**15))
            with torch.device("meta"):
                layout = VQGAN(
                    VQGANConfig(16, width=64, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4)
                ).state_dict()
            content = {name: wide([side * width // 64 if side >= 64 else side for side in tensor.shape])
                       for name, tensor in layout.items()}  # fmt: skip
            name = f"a VQGAN of {width} channels"
        else:
            factor = self.draw.choice((64, 1024))
            content = torch.load(FAIRSEQ / "stage1_uncond.pt", weights_only=False)
            content["model"] = {k: larger(v, factor) for k, v in content["model"].items()}
            name = f"a DiGIT checkpoint {factor} times as wide"
        self.given.mkdir()
        torch.save(content, self.given / "weights.pth")
        return name, lambda: self.digit(f"convert {self.given / 'weights.pth'} {more} --out {self.out}")

    def settings(self) -> tuple[str, Callable[[], Ended]]:
        """An artifact that asks for many parts, beside as many empty tensors."""
        kind = self.draw.choice(sorted(path.name for path in (self.there / "stages").iterdir()))
        shutil.copytree(self.there / "stages" / kind, self.given)
        path, weights = self.given / "config.json", self.given / "model.safetensors"
        value, number = read_json(path), self.draw.choice(NUMBERS)
        places = numbers(value["config"])
        chosen = self.draw.sample(places, min(len(places), self.draw.choice((1, 1, 2))))
        for holder, key in chosen:
            holder[key] = [1] * min(number, 10**6) if isinstance(holder[key], list) else number
        if self.draw.random() < 0.6:
            weights.write_bytes(with_empties(weights.read_bytes(), min(number, EMPTIES)))
        value["files"][weights.name] = sha256_file(weights)
        path.write_bytes(mutations.sealed(mutations.dumped(value)))
        name = f"a {kind} with {number} as {' and '.join(str(key) for _, key in chosen)}"
        part = {"tokenizer": "tokenizer", "vqgan": "vqgan"}.get(kind)
        line = f"tokenize --images {self.there / 'pictures.zip'} --{part} {self.given} --out {self.out}"
        if part is None:
            stages = self.there / "stages"
            option = (
                f"--{kind.replace('_', '-')}"
                if kind in ("prior", "renderer", "renderer_masked")
                else "--renderer"
            )
            parts = "" if kind == "prior" else f"--prior {stages / 'prior'}"
            line = f"compose {parts} --vqgan {stages / 'vqgan'} {option} {self.given} --out {self.out}"
        return name, lambda: self.digit(line)

    def levels(self) -> tuple[str, Callable[[], Ended]]:
        """A VQGAN of many levels with many blocks each."""
        shutil.copytree(self.there / "stages" / "vqgan", self.given)
        path, weights = self.given / "config.json", self.given / "model.safetensors"
        value = read_json(path)
        levels, blocks = self.draw.choice((3, 10, 24)), self.draw.choice((10, 3000, 6000))
        value["config"] |= {
            "multipliers": [1] * levels,
            "blocks": blocks,
            "image_size": 2 ** min(24, levels + 1),
        }
        weights.write_bytes(with_empties(weights.read_bytes(), self.draw.choice((0, 6000, EMPTIES))))
        value["files"][weights.name] = sha256_file(weights)
        path.write_bytes(mutations.sealed(mutations.dumped(value)))
        line = (
            f"tokenize --images {self.there / 'pictures.zip'} --vqgan {self.given} --size 16 --out {self.out}"
        )
        return f"a VQGAN of {levels} levels of {blocks} blocks", lambda: self.digit(line)

    def codes(self) -> tuple[str, Callable[[], Ended]]:
        """Codes that claim other numbers than their arrays hold, to a prior that is made for them."""
        shutil.copytree(self.there / "codes", self.given)
        path = self.given / "meta.json"
        value, number = read_json(path), self.draw.choice(NUMBERS)
        what = self.draw.choice(
            ("vocabulary", "images", "views", "classes", "long classes", "header", "skipped")
        )
        if what == "vocabulary":
            value["streams"]["codes"]["vocabulary"] = number
        elif what == "classes":
            value["classes"] = [str(i) for i in range(min(number, 10**6))]
        elif what == "long classes":
            value["classes"] = [letter * 10**7 for letter in "abc"]
        elif what == "skipped":
            value["skipped"] = [["a.png", "b"]] * 10**6
        elif what == "header":
            array = self.given / "codes.npy"
            head = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({value['images']}, 2, {number}), }}"
            array.write_bytes(b"\x93NUMPY\1\0v\0" + head.encode().ljust(117) + b"\n" + bytes(100))
            value["files"]["codes.npy"] = sha256_file(array)
        else:
            value[what] = number
        path.write_bytes(mutations.sealed(mutations.dumped(value)))
        lines = (f"train prior --codes {self.given} --out {self.out} {TRAIN} --steps 1", f"info {self.given}")
        line = self.draw.choice(lines)
        return f"codes with {number} {what} for {line.split()[0]}", lambda: self.digit(line)

    def arrays(self) -> tuple[str, Callable[[], Ended]]:
        """An npz whose arrays inflate, or claim more than they inflate to."""
        self.given.mkdir()
        path = self.given / "a.npz"
        what, shape, real = self.draw.choice(
            (
                ("arr_0", (1, 20_000, 20_000, 3), 1_200_000_000),
                ("arr_0", (99_999_999, 64, 64, 3), 1000),
                ("arr_0", (1, 2**31, 2**31, 3), 1000),
                ("arr_1", (2**27,), 2**30),
                ("arr_1", (2**40,), 1000),
                ("mu", (10**8,), 800_000_000),
                ("sigma", (11_000, 11_000), 968_000_000),
                ("sigma", (2**20, 2**20), 1000),
            )
        )
        kind = {"arr_0": "|u1", "arr_1": "<i8"}.get(what, "<f8")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            others = {
                "arr_0": ("|u1", (2, 8, 8, 3), 384),
                "mu": ("<f8", (8,), 64),
                "sigma": ("<f8", (8, 8), 512),
            }
            for name, (descr, sides, count) in {**others, what: (kind, shape, real)}.items():
                with archive.open(f"{name}.npy", "w") as file:
                    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {sides}, }}"
                    file.write(b"\x93NUMPY\1\0v\0" + head.encode().ljust(117) + b"\n")
                    for _ in range(0, count, 2**24):
                        file.write(bytes(min(count, 2**24)))
        line = f"evaluate images --samples {path} --reference {path} --few --device cpu"
        line += f" --features classifier:{self.there / 'stages' / 'classifier'}"
        return f"an npz with {what} {shape} in {path.stat().st_size:,} bytes", lambda: self.digit(line)

    def headers(self) -> tuple[str, Callable[[], Ended]]:
        """A safetensors file that is all header."""
        shutil.copytree(self.there / "stages" / "prior", self.given)
        path, weights = self.given / "config.json", self.given / "model.safetensors"
        what = self.draw.choice(("notes", "names", "long names"))
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        heads: dict[str, Callable[[], dict[str, Any]]] = {
            "notes": lambda: {"__metadata__": {str(i): "x" * 1000 for i in range(50_000)}, "a": empty},
            "names": lambda: {str(i): empty for i in range(500_000)},
            "long names": lambda: {f"{i}{'x' * 10**6}": empty for i in range(30)},
        }
        text = json.dumps(heads[what]()).encode()
        weights.write_bytes(struct.pack("<Q", len(text)) + text)
        value = read_json(path)
        value["files"][weights.name] = sha256_file(weights)
        path.write_bytes(mutations.sealed(mutations.dumped(value)))
        stages = self.there / "stages"
        lines = (
            f"info {self.given}", f"convert {weights} --out {self.out}",
            f"compose --prior {self.given} --vqgan {stages / 'vqgan'} --out {self.out}",
        )  # fmt: skip
        line = self.draw.choice(lines)
        return (
            f"a safetensors header of {len(text):,} bytes of {what} for {line.split()[0]}",
            lambda: self.digit(line),
        )

    def texts(self) -> tuple[str, Callable[[], Ended]]:
        """JSON of many megabytes in the place of each file of a few hundred bytes."""
        of, name, line = self.draw.choice(
            (
                ("model", "config.json", "info {}"),
                ("model", "prior/config.json", "sample {} --num 1 --device cpu --out {out}"),
                ("codes", "meta.json", "info {}"),
                ("run", "status.json", "info {}"),
                ("run", "log.jsonl", "info {}"),
                (
                    "run",
                    "log.jsonl",
                    f"train prior --codes {self.there / 'codes'} --out {{}} {TRAIN} --steps 3",
                ),
                ("run", "state/step-0000002/state.json", "info {}"),
                ("samples", "samples.json", "info {}"),
                ("samples", ".digit.json", f"{drawing(self.there)} --out {{}}"),
                ("results", "images.json", "info {}/images.json"),
                ("results", "images.json", "evaluate compare {}/images.json {}/images.json"),
            )
        )
        shutil.copytree(self.there / of, self.given)
        path, what = (
            self.given / name,
            self.draw.choice(("list", "names", "text", "number", "lines", "depth")),
        )
        size = self.draw.choice((10**6, 10**7))
        more: dict[str, Callable[[], Any]] = {
            "list": lambda: [0] * size, "names": lambda: {str(i): 0 for i in range(size // 10)},
            "text": lambda: "x" * size, "number": lambda: 10**4000,
            "lines": lambda: "\n" * size, "depth": lambda: None,
        }  # fmt: skip
        if name.endswith("jsonl"):
            row = json.loads(path.read_text().splitlines()[-1])
            rows = (
                [json.dumps(row)] * (size // 100)
                if what == "lines"
                else [json.dumps({**row, "a": "x" * size})]
            )
            path.write_text("\n".join(rows if what != "depth" else ["[" * size]) + "\n")
        else:
            value = read_json(path)
            value[self.draw.choice((*value, "more"))] = more[what]()
            path.write_bytes(b"[" * size if what == "depth" else mutations.sealed(mutations.dumped(value)))
        line = line.replace("{out}", str(self.out)).replace("{}", str(self.given))
        return f"{name} of {of} with a {what} of {size:,} for {line.split()[0]}", lambda: self.digit(line)


def wide(shape: Any) -> Tensor:
    """A tensor of any shape that is stored as 4 bytes."""
    return torch.ones(1).as_strided(list(shape), [0] * len(shape))


def larger(tensor: Any, factor: int) -> Any:
    """A tensor's shape with its wide sides multiplied, stored as one number."""
    if not isinstance(tensor, Tensor) or not tensor.ndim:
        return tensor
    return torch.ones(1, dtype=tensor.dtype).as_strided(
        [side * factor if side >= 16 else side for side in tensor.shape], [0] * tensor.ndim
    )


def numbers(value: Any) -> list[tuple[Any, Any]]:
    """Where numbers, and lists of them, are in settings."""
    found: list[tuple[Any, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            found += numbers(inner)
        elif isinstance(inner, list) or (isinstance(inner, int | float) and not isinstance(inner, bool)):
            found.append((value, key))
    return found


def with_empties(data: bytes, count: int) -> bytes:
    """A safetensors file with many tensors more that hold nothing."""
    length = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + length])
    end = len(data) - 8 - length
    head |= {f"empty.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [end, end]} for i in range(count)}
    text = json.dumps(head).encode()
    out = io.BytesIO()
    out.write(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return out.getvalue()


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` files, each kind by lot."""
    suite = Suite(folder, seed)
    kinds = {
        suite.pickle: 3,
        suite.settings: 8,
        suite.levels: 2,
        suite.codes: 5,
        suite.arrays: 3,
        suite.headers: 2,
        suite.texts: 5,
    }
    return by_lot(cases, suite, kinds)

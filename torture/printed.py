"""T27: names and values that a terminal, a table or a plot would obey, huge texts, and odd surroundings."""

import json
import os
import random
import resource
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from digit.files import read_json, sha256_file
from torture import mutations
from torture.guard import Canaries, Ended, Tree, by_lot, digit
from torture.outcome import About, Outcome
from torture.readers import check_said
from torture.specimens import TRAIN, drawing, make_specimens

ABOUT = About(
    what="escapes, control characters, halves of characters, markup, formulas and texts of 10 MB as names of "
    "pictures, classes, tensors, settings, values, files and folders; absurd options, variables and streams",
    goal="nothing that a terminal obeys, lines of at most 3,000 characters, one sentence in place of a "
    "traceback",
    full=300,
    short=30,
)
TEXTS = {
    "colours": "\x1b[31mred", "a title": "\x1b]0;title\x07", "two lines": "a\nb\rc",
    "a bell": "\a\b\x7f\x9b31m", "turned": "\u202egpj.exe", "half a character": "a\udc9bb",
    "markup": "[/red][bold]x[/]", "a link": "[link=file:///x]y[/link]", "a formula": "$\\frac{a}{b$",
    "a formula of nothing": "$\\undefined{x}$", "percents": "%s%n{0}{}", "10 MB": "x" * 10**7,
    "10 MB of escapes": "\x1b[31m" * (2 * 10**6), "lines without end": "\u2028\u2029\x85" * 100,
    "brackets": "[" * 3000,
}  # fmt: skip
_LOCAL = ("10 MB", "10 MB of escapes", "brackets", "lines without end")  # too long for the name of a file
SURROUNDINGS = {  # variable, value
    "WORLD_SIZE": ("abc", "-1", "0", "1e9", "99999999999999999999", "\x1b[31m"),
    "RANK": ("abc", "-1", "5"),
    "LOCAL_RANK": ("x", "7"),
    "OMP_NUM_THREADS": ("abc", "-1", "10000000000"),
    "COLUMNS": ("0", "1", "-5", "abc", "999999999"),
    "TERM": ("dumb", "\x1b[31m"),
    "HOME": ("/nonexistent", ""),
    "TMPDIR": ("/nonexistent",),
}


class Suite:
    """Good files, and ways to give them such names and such surroundings."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Make the good files."""
        self.draw, self.folder = random.Random(seed), folder
        self.there = make_specimens(folder / "specimens")
        self.out, self.given = folder / "out", folder / "given"
        self.canaries = Canaries(folder / "canaries")
        self.tree = Tree(folder, beside=(self.out, self.given, folder / "canaries"))
        stages = self.there / "stages"
        self.tokens = f"--tokenizer {stages / 'tokenizer'} --device cpu --out {self.out}"
        self.measure = f"--features classifier:{stages / 'classifier'} --few --device cpu"

    def digit(self, words: Sequence[str], **more: Any) -> Ended:
        """A command line, whose output must be lines."""
        ended = digit(*words, canaries=self.canaries, **more)
        try:
            check_said(ended.said.replace("\t", " "))
        except RuntimeError as error:
            return Ended(1, str(error), str(error))
        size = (
            sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
            if self.out.exists()
            else 0
        )
        return ended if size < 5e6 else Ended(1, "", f"{size:,} bytes were written")

    def members(self) -> tuple[str, Callable[[], Ended]]:
        """A picture, or the class of one, with such a name in a folder, zip or tar."""
        name, text = self._text(local=True)
        how, whose = (
            self.draw.choice(("folder", "zip", "tar")),
            self.draw.choice(("picture", "class", "broken", "other")),
        )
        data = (self.there / "photos" / "red" / "0002.png").read_bytes()
        member = {
            "picture": f"red/{text}.png", "class": f"{text}/0.png", "broken": f"red/{text}.png",
            "other": f"red/{text}.txt",
        }[whose].replace("\0", "")  # fmt: skip
        data = data[:100] if whose == "broken" else data
        source = self.given / f"photos.{how}" if how != "folder" else self.given
        self._packed(source, how, member, data)
        verb = self.draw.choice(("tokenize", "evaluate", "strict"))
        words = f"tokenize --images {source} {self.tokens}"
        words += " --strict" if verb == "strict" else ""
        if verb == "evaluate":
            words = f"evaluate images --samples {source} --reference {source} {self.measure}"
        return f"{name} as a {whose} of a {how} for {verb}", lambda: self.digit(words.split())

    def _packed(self, source: Path, how: str, member: str, data: bytes) -> None:
        files = {str(path.relative_to(self.there / "photos")): path.read_bytes()
                 for path in sorted((self.there / "photos").rglob("*.png"))} | {member: data}  # fmt: skip
        self.given.mkdir(exist_ok=True)
        if how == "folder":
            for name, content in files.items():
                path = source / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        elif how == "zip":
            with zipfile.ZipFile(source, "w") as archive:
                for name, content in files.items():
                    about = zipfile.ZipInfo("x")
                    about.filename = name.replace("\udc9b", "\x9b")
                    archive.writestr(about, content)
        else:
            with tarfile.open(source, "w") as archive:
                for name, content in files.items():
                    about = tarfile.TarInfo(name)
                    about.size = len(content)
                    archive.addfile(about, BytesIO(content))

    def values(self) -> tuple[str, Callable[[], Ended]]:
        """A JSON file with such a name or value at a place by lot."""
        name, text = self._text()
        of, file, line = self.draw.choice(
            (
                ("model", "config.json", "info {}"),
                ("model", "prior/config.json", "info {}"),
                ("model", "config.json", "sample {} --num 2 --device cpu --out {out} --labels nosuch"),
                ("model", "config.json", "sample {} --num 2 --device cpu --out {out}"),
                ("codes", "meta.json", "info {}"),
                ("codes", "meta.json", f"train prior --codes {{}} --out {{out}} {TRAIN} --steps 1"),
                ("run", "status.json", "info {}"),
                ("run", "log.jsonl", "info {}"),
                (
                    "run",
                    "log.jsonl",
                    f"train prior --codes {self.there / 'codes'} --out {{}} {TRAIN} --steps 3",
                ),
                ("run", "state/step-0000002/state.json", "info {}"),
                ("samples", "samples.json", "info {}"),
                (
                    "samples",
                    "samples.json",
                    f"evaluate images --samples {{}} --reference {{}} {self.measure}",
                ),
                ("samples", ".digit.json", f"{drawing(self.there)} --out {{}}"),
                ("results", "images.json", "info {}/images.json"),
                (
                    "results",
                    "images.json",
                    f"evaluate compare {{}}/images.json {self.there}/results/images.json",
                ),
                ("results", "images.json", "evaluate compare {}/images.json {}/images.json"),
            )
        )
        shutil.copytree(self.there / of, self.given)
        path = self.given / file
        if file.endswith("jsonl"):
            row = json.loads(path.read_text().splitlines()[-1]) | {text: 1.5, "event": text}
            path.write_text(path.read_text() + json.dumps(row) + "\n")
        else:
            value = read_json(path)
            places: list[tuple[Any, Any]] = []
            mutations.find_places(value, places)
            holder, key = self.draw.choice(places)
            if isinstance(holder, dict) and self.draw.random() < 0.4:
                holder[text] = holder.pop(key)
            else:
                holder[key] = text
            path.write_bytes(mutations.sealed(mutations.dumped(value)))
        words = line.replace("{out}", str(self.out)).replace("{}", str(self.given)).split()
        return f"{name} in {file} of {of} for {words[0]}", lambda: self.digit(words)

    def tensors(self) -> tuple[str, Callable[[], Ended]]:
        """A tensor with such a name, in safetensors or a pickle, or thousands of them."""
        name, text = self._text()
        text = text.replace("\udc9b", "\x9b")
        self.given.mkdir()
        many = self.draw.choice((1, 1, 5000)) if len(text) < 4000 else 1
        names = [f"{text}{i}" for i in range(many)]
        if self.draw.random() < 0.5:
            weights = torch.load(self.there / "files" / "vit.pth") | {each: torch.ones(1) for each in names}
            torch.save(weights, self.given / "vit.pth")
            line = f"convert {self.given / 'vit.pth'} --encoder-heads 2 --image-size 16 --out {self.out}"
            return f"{name} as {many} tensors of a pickle", lambda: self.digit(line.split())
        shutil.copytree(self.there / "model", self.given, dirs_exist_ok=True)
        path, config = self.given / "prior" / "model.safetensors", self.given / "prior" / "config.json"
        path.write_bytes(_with_tensors(path.read_bytes(), names))
        value = read_json(config)
        value["files"][path.name] = sha256_file(path)
        config.write_bytes(mutations.sealed(mutations.dumped(value)))
        line = f"sample {self.given} --num 1 --device cpu --out {self.out}"
        return f"{name} as {many} tensors of a part", lambda: self.digit(line.split())

    def places(self) -> tuple[str, Callable[[], Ended]]:
        """A folder or file whose own name is such a text."""
        name, text = self._text(local=True)
        self.given.mkdir()
        of, words = self.draw.choice(
            (
                ("model", ["info", "{}"]),
                ("model", ["sample", "{}", "--num", "1", "--device", "cpu", "--out", str(self.out)]),
                ("samples", ["info", "{}"]),
                ("codes", ["info", "{}"]),
                ("absent", ["info", "{}"]),
                ("absent", ["tokenize", "--images", "{}", *self.tokens.split()]),
                (
                    "zip/pictures.zip",
                    ["evaluate", "images", "--samples", "{}", "--reference", "{}", *self.measure.split()],
                ),
            )
        )
        place = self.given / text.replace("\0", "").replace("/", "")
        source = self.there / of
        if source.is_dir():
            shutil.copytree(source, place)
        elif source.exists():
            place = place.with_name(f"{place.name}.zip")
            shutil.copyfile(source, place)
        line = [word.replace("{}", str(place)) for word in words]
        return f"{name} as the name of {of} for {words[0]}", lambda: self.digit(line)

    def options(self) -> tuple[str, Callable[[], Ended]]:
        """Numbers, lists and texts that nobody means."""
        model = f"sample {self.there / 'model'} --device cpu --out {self.out}"
        train = f"train prior --codes {self.there / 'codes'} --out {self.out} {TRAIN}"
        line = self.draw.choice(
            (
                f"{model} --num 100000000000", f"{model} --num {'9' * 5000}",
                f"{model} --seeds 0-100000000000", f"{model} --seeds 5-1", f"{model} --seeds {'1,' * 5000}1",
                f"{model} --num 1 --temperature 1e-320", f"{model} --num 1 --guidance 1e308",
                f"{model} --num 1 --top-k {2**70}", f"{model} --labels {'x' * 100000}",
                f"{model} --num 1 --batch {2**62}", f"{train} --steps {2**62}",
                f"{train} --steps 1 --seed {2**64}", f"{train} --steps 1 --lr nan", f"info {'a/' * 3000}",
                f"info {'a' * 300}", "info /dev/full", "info /dev/zero", "info /proc/self/mem", "info .",
                "info owner/name@../../x", f"evaluate compare {'x' * 5000} y",
            )
        )  # fmt: skip
        return line[:120], lambda: self.digit(line.split())

    def surroundings(self) -> tuple[str, Callable[[], Ended]]:
        """Variables, standard streams and memory that are odd."""
        result = self.there / "results" / "images.json"
        line = self.draw.choice(
            (
                f"info {self.there / 'model'}",
                f"info {self.there / 'codes'} --json",
                f"sample {self.there / 'model'} --num 2 --device cpu --out {self.out}",
                f"evaluate compare {result} {result}",
            )
        )
        if self.draw.random() < 0.4:
            variable = self.draw.choice(list(SURROUNDINGS))
            value = self.draw.choice(SURROUNDINGS[variable])
            first = partial(os.environ.__setitem__, variable, value)
            return f"{variable}={value!r} for {line.split()[0]}", lambda: self.digit(
                line.split(), first=first
            )
        stream = self.draw.choice(tuple(STREAMS))
        codes = STREAMS[stream]
        return f"{stream} for {line.split()[0]}", lambda: self.digit(line.split(), first=codes)

    def _text(self, *, local: bool = False) -> tuple[str, str]:
        name = self.draw.choice([name for name in TEXTS if not (local and name in _LOCAL)])
        return name, TEXTS[name].replace("/", "\u2215") if local else TEXTS[name]


def _full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def _little_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, used + 10**8))


STREAMS: dict[str, Callable[[], object]] = {
    "a full standard output": _full,
    "a closed standard output": lambda: os.close(1),
    "a closed error output": lambda: os.close(2),
    "no standard streams": lambda: [os.close(i) for i in range(3)],
    "a reader that is gone": _gone,
    "100 MB of memory": _little_memory,
    "32 open files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)),
}


def _with_tensors(data: bytes, names: list[str]) -> bytes:
    """A safetensors file with empty tensors of these names too."""
    length = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + length])
    end = len(data) - 8 - length
    head |= {name: {"dtype": "F32", "shape": [0], "data_offsets": [end, end]} for name in names}
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` names, values and surroundings, each kind by lot."""
    suite = Suite(folder, seed)
    kinds = {
        suite.members: 5,
        suite.values: 8,
        suite.tensors: 3,
        suite.places: 3,
        suite.options: 3,
        suite.surroundings: 3,
    }
    return by_lot(cases, suite, kinds)

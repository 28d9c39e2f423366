"""Every way by which a file comes into digit: what is copied for a case, how it lies, and who reads it."""

import contextlib
import hashlib
import io
import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from digit.data.codes import CodeData, Codes
from digit.data.decode import BrokenImage, decode
from digit.data.images import open_images
from digit.data.write_codes import write_codes
from digit.errors import DigitError
from digit.evaluation.pictures import open_npz
from digit.evaluation.result import read_result
from digit.files import read_json, sha256_file
from digit.pipeline import DigitPipeline
from digit.run.evaluate.measurement import generated
from digit.run.evaluate.probe_states import cached_rows
from digit.run.main import run as command
from digit.run.tokenize import open_kinds
from digit.training import checkpoint, log
from digit.weights.artifact import load
from digit.weights.conversion import convert_file
from torture import mutations
from torture.specimens import TRAIN, caching, drawing

LONGEST, MOST = 2500, 100_000  # characters of a line, and of all that a command may say in a case
# Control characters, what ends a line or turns its direction, halves of characters.
_OBEYED = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Change = Callable[[Path, random.Random], str]  # makes the copy hostile, and says where
Read = Callable[[Path, "Specimens"], object]


@dataclass(frozen=True)
class Specimens:
    """What readers need beside the case: the whole specimens, and how codes are made."""

    folder: Path
    kinds: Any  # of codes

    @classmethod
    def of(cls, folder: Path) -> "Specimens":
        """Those in a folder that `make_specimens` filled."""
        stages, cpu = folder / "stages", torch.device("cpu")
        kinds, *_ = open_kinds(stages / "tokenizer", stages / "vqgan", size=16, device=cpu)
        return cls(folder, kinds)


@dataclass(frozen=True)
class Target:
    """One kind of case."""

    name: str
    weight: float  # how often, beside the others
    of: str  # what of the specimens is copied, one of what a pattern finds
    change: Change
    read: Read


class Refused(DigitError):
    """A command ended with exit code 2."""


def say(*words: object) -> None:
    """Run a command; Refused where its exit code is 2, RuntimeError where it or what is said is odd."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = command(list(map(str, words)))
    check_said(said.getvalue())
    if code == 2:
        raise Refused((said.getvalue().strip().splitlines() or [""])[-1])
    if code != 0:
        raise RuntimeError(f"exit code {code}")


def check_said(text: str) -> None:
    """RuntimeError where a terminal would obey what was printed, or a line is no line any more."""
    if odd := sorted(set(_OBEYED.findall(text))):
        raise RuntimeError(f"characters that a terminal obeys were printed: {odd[:5]}")
    longest = max(map(len, text.splitlines()), default=0)
    if longest > LONGEST or len(text) > MOST:
        raise RuntimeError(f"{len(text):,} characters were printed, {longest:,} of them in one line")


# --- how files lie ---------------------------------------------------------------------------------------


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


# --- who reads them --------------------------------------------------------------------------------------


def read_codes(folder: Path, _: Specimens) -> None:
    """Open codes, read all of them and a batch to train on."""
    codes = Codes(folder)
    for name in codes.meta["streams"]:
        most = max((int(block.max()) for block in codes.blocks(name) if block.size), default=-1)
        if most >= codes.vocabulary(name):
            raise RuntimeError(f"a code {most} of {codes.vocabulary(name)} was accepted")
        codes.length(name)
        if len(codes) and codes.array(name).size:
            CodeData(codes, batch_size=2, arrays=(name,))(0)
    if codes.labels is not None and len(codes.labels):
        inside = codes.labels.min() >= 0 and codes.labels.max() < max(1, len(codes.classes))
        if codes.classes and not inside:
            raise RuntimeError(
                f"labels up to {codes.labels.max()} of {len(codes.classes)} classes were accepted"
            )
    codes.lineage()


def read_model(folder: Path, _: Specimens) -> None:
    """Open a model and draw a picture with it."""
    pipeline = DigitPipeline.from_pretrained(folder)
    renderers: list[Any] = [*pipeline.renderers] or [None]
    for renderer in renderers:
        pipeline(seeds=[0], renderer=renderer)


def read_artifact(folder: Path, _: Specimens) -> None:
    """Open an artifact as a module."""
    load(next(path.parent for path in folder.rglob("config.json")))


def read_run(folder: Path, _: Specimens) -> None:
    """The states, the log and the status of a training."""
    found = checkpoint.load_newest(folder / "state", warn=lambda sentence: None)
    for tensors in (found.model, found.optimizer) if found else ():
        for name in tensors:
            tensors[name]
    log.draw(log.read(folder / "log.jsonl"), folder / "loss.png")
    log.read_status(folder)


def resume(folder: Path, specimens: Specimens) -> None:
    """Go on training."""
    codes = specimens.folder / "codes"
    say("train", "prior", "--codes", codes, "--out", folder, *TRAIN.split(), "--steps", 3)


def redraw(folder: Path, specimens: Specimens) -> None:
    """Draw what is not drawn yet."""
    say(*drawing(specimens.folder).split(), "--out", folder)


def read_samples(folder: Path, _: Specimens) -> None:
    """What digit drew as a set."""
    with contextlib.redirect_stderr(io.StringIO()):
        read_pictures(folder, _)
        generated(str(folder))


def read_pictures(path: Path, _: Specimens) -> None:
    """List pictures and read all of them."""
    source = open_images(path)
    for i in range(len(source)):
        with contextlib.suppress(BrokenImage):
            decode(source.read(i))


def read_zip(folder: Path, _: Specimens) -> None:
    """The pictures of a zip."""
    read_pictures(folder / "pictures.zip", _)


def tokenize(folder: Path, specimens: Specimens) -> None:
    """Go on making codes."""
    write_codes(
        open_images(specimens.folder / "pictures.zip"), folder, specimens.kinds, size=16, views=2, threads=1
    )
    read_codes(folder, specimens)


def read_arrays(folder: Path, _: Specimens) -> None:
    """Pictures and statistics as of ADM."""
    for path in sorted(folder.glob("*.npz")):
        for batch in open_npz(path, 3).batches:
            batch.sum()


def convert(folder: Path, specimens: Specimens) -> None:
    """Everything that a published file may be."""
    path = next(
        path for path in sorted(folder.iterdir()) if path.suffix in (".pth", ".ckpt", ".npy", ".safetensors")
    )
    encoder = specimens.folder / "stages" / "encoder" if path.suffix == ".npy" else None
    how: dict[str, Any] = {} if path.suffix == ".npy" else {"encoder_heads": 2}
    convert_file(path, encoder=encoder, image_size=16, **(how if path.suffix != ".ckpt" else {}))


def compare(folder: Path, specimens: Specimens) -> None:
    """A result beside the one that it was."""
    say("evaluate", "compare", folder / "images.json", specimens.folder / "results" / "images.json")


def sweep(folder: Path, specimens: Specimens) -> None:
    """Go on with a sweep."""
    there, images = specimens.folder, specimens.folder / "pictures.zip"
    features = f"classifier:{there / 'stages' / 'classifier'}"
    how = ["--reference", images, "--features", features, "--few", "--device", "cpu", "--num", 4]
    say("evaluate", "sweep", there / "model", *how, "--out", folder / "sweep.json")


def settings(folder: Path, specimens: Specimens) -> None:
    """How a model draws, from a file of one's own."""
    stages = specimens.folder / "stages"
    parts = [word for name in ("prior", "renderer", "vqgan") for word in (f"--{name}", stages / name)]
    say("compose", *parts, "--sampling", folder / "sweep-sampling.json", "--out", folder / "model")


def info(folder: Path, _: Specimens) -> None:
    """What a folder is."""
    say("info", folder)


def read_images_result(folder: Path, _: Specimens) -> None:
    """A result, for a program."""
    read_result(folder / "images.json")


def read_cache(folder: Path, _: Specimens) -> None:
    """Features that were computed before."""
    cached_rows(lambda start: torch.zeros(5, 2, 8), (20, 2, 8), **caching(folder)).sum()


def info_file(pattern: str) -> Read:
    """What a JSON file is."""
    return lambda folder, _: say("info", next(iter(sorted(folder.glob(pattern)))))


def only(pattern: str, change: Change) -> Change:
    """The change, of a copy that holds nothing but one of what the pattern finds."""

    def first(folder: Path, draw: random.Random) -> str:
        chosen = draw.choice(sorted(folder.glob(pattern)))
        for path in folder.iterdir():
            if path != chosen:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return change(folder, draw)

    return first


_TENSORS = listed("**/*.safetensors", mutations.safetensors)
_CONFIGS = json_files("**/config.json")
_ARRAYS = plain("*.npz", lambda data, draw: mutations.zipped(data, draw, mutations.npy))
_PICTURES = plain("*.zip", lambda data, draw: mutations.zipped(data, draw, picture_bytes))
_STATE = "state/*2/state.json"
TARGETS = (
    Target("settings of an artifact", 9, "stages/*", _CONFIGS, read_artifact),
    Target("tensors of an artifact", 9, "stages/*", _TENSORS, read_artifact),
    Target("an artifact, told", 4, "stages/*", _CONFIGS, info),
    Target("settings of a model", 2, "model", json_files("config.json"), read_model),
    Target("settings of a part", 2, "model", json_files("*/config.json"), read_model),
    Target("tensors of a part", 2, "model", _TENSORS, read_model),
    Target("a model, told", 2, "model", _CONFIGS, info),
    Target("codes' description", 9, "codes", json_files("meta.json"), read_codes),
    Target("codes' arrays", 9, "codes", listed("*.npy", mutations.npy), read_codes),
    Target("codes, told", 3, "codes", json_files("meta.json"), info),
    Target("unfinished codes' plan", 1, "parts", json_files("parts/plan.json"), tokenize),
    Target("unfinished codes' parts", 1.5, "parts", plain("parts/*.npz", with_digest), tokenize),
    Target("a training's state", 6, "run", json_files("state/*/state.json"), read_run),
    Target("a state's tensors", 6, "run", listed("state/*/*.safetensors", mutations.safetensors), read_run),
    Target("a training's log", 5, "run", plain("log.jsonl", lines), read_run),
    Target("a training's status", 3, "run", json_files("status.json"), read_run),
    Target("a training, told", 3, "run", json_files("status.json"), info),
    Target("a log, told", 3, "run", plain("log.jsonl", lines), info),
    Target("a state, told", 2, "run", json_files(_STATE), info),
    Target("a training's mark, gone on", 0.1, "run", json_files(".digit.json"), resume),
    Target("a state, gone on", 0.2, "run", json_files(_STATE), resume),
    Target("tensors, gone on", 0.2, "run", listed("state/*2/*.safetensors", mutations.safetensors), resume),
    Target("samples' list", 6, "samples", json_files("samples.json"), read_samples),
    Target("samples, told", 4, "samples", json_files("samples.json"), info),
    Target("the mark of a drawing", 1, "samples", json_files(".digit.json"), redraw),
    Target("lists of an unfinished drawing", 1, "drawn", drawn_lists, redraw),
    Target("a result, compared", 6, "results", json_files("images.json"), compare),
    Target("a result, told", 5, "results", json_files("images.json"), info_file("images.json")),
    Target("a result", 5, "results", json_files("images.json"), read_images_result),
    Target("a sweep, gone on", 0.05, "results", json_files("sweep.json"), sweep),
    Target("a sweep, told", 2, "results", json_files("sweep.json"), info_file("sweep.json")),
    Target("settings to draw with", 0.7, "results", json_files("sweep-sampling.json"), settings),
    Target("cached features' note", 4, "cache", json_files("*.json"), read_cache),
    Target("cached features", 5, "cache", listed("*.npy", mutations.npy, also=0), read_cache),
    Target("arrays in npz", 10, "files", only("*.npz", _ARRAYS), read_arrays),
    Target("pickles to convert", 4, "files", only("*.[pc][tk]*", pickled), convert),
    Target("a table to convert", 2, "files", only("*.npy", plain("*.npy", mutations.npy)), convert),
    Target(
        "safetensors to convert",
        3,
        "stages/[ev][nq]*",
        plain("*.safetensors", mutations.safetensors),
        convert,
    ),
    Target("pictures", 7, "photos", plain("*/*.png", picture_bytes), read_pictures),
    Target("pictures in a zip", 5, "zip", _PICTURES, read_zip),
)

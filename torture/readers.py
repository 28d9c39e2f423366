"""Every way by which a file comes into digit: what is copied for a case, how it lies, and who reads it."""

import contextlib
import io
import re
from collections.abc import Callable
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
from digit.pipeline import DigitPipeline
from digit.run.evaluate.measurement import generated
from digit.run.evaluate.probe_states import cached_rows
from digit.run.main import run as command
from digit.run.tokenize import open_kinds
from digit.training import checkpoint, log
from digit.weights.artifact import load
from digit.weights.conversion import convert_file
from torture import mutations
from torture.lies import (
    Change,
    drawn_lists,
    json_files,
    lines,
    listed,
    only,
    pickled,
    picture_bytes,
    plain,
    text,
    with_digest,
)
from torture.specimens import TRAIN, caching, drawing

LONGEST, MOST = 3000, 100_000  # characters of a line, and of all that a command may say in a case
# Control characters, what ends a line or turns its direction, halves of characters.
_OBEYED = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

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


def configure(folder: Path, specimens: Specimens) -> None:
    """Understand the command that a run's settings repeat."""
    given = ["--config", folder / "settings.toml", "--codes", specimens.folder / "codes"]
    say("train", "prior", *given, "--out", folder / "again", "--dry-run")


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
    Target("settings of a training", 4, "run", plain("settings.toml", text), configure),
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
    Target("a table of classes", 4, "tables/*", plain("*s.[cj]*", text), read_pictures),
    Target("pictures in a zip", 5, "zip", _PICTURES, read_zip),
)

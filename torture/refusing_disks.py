"""T7: a disk that is full, read-only, under a quota or broken while digit writes."""

import contextlib
import errno
import io
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from digit import files
from digit.data.codes import Codes
from digit.files import TEMPORARY, read_json, sha256_file
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.run.main import run as command
from digit.weights.artifact import save
from torture import tiny, training
from torture.children import Child
from torture.outcome import About, Outcome

ABOUT = About(
    what="train, tokenize, sample and evaluate into a file system that fills (ENOSPC), is read-only, is "
    "under a quota (RLIMIT_FSIZE), or fails (EIO of fsync), each at a place by lot; then once more with room",
    goal="50 of 50: one sentence, exit code 2, states intact; the repeated command gives the same result",
    full=96,
    short=8,
)
FAULTS = ("full", "read-only", "quota", "EIO")
ROOM = 64 * 2**20  # bytes of a file system that is large enough


def run(cases: int, folder: Path, seed: int = 0) -> Outcome:
    """`cases` commands, faults and verbs in turn."""
    outcome, draw = Outcome(), random.Random(seed)
    codes = training.make_data(folder)
    stages = folder / "stages"
    names = ("tokenizer", "vqgan", "prior", "renderer")
    tiny.make_model({name: stages / name for name in names}, folder / "model")
    save(Classifier(ClassifierConfig(classes=3, width=4, image_size=16)), folder / "classifier")
    whole = {}
    for verb, lines in calls(folder, codes, folder / "whole").items():
        for line in lines:
            outcome.check(command(line) == 0, f"{verb} does not run at all")
        whole[verb] = (result(verb, folder / "whole"), used(folder / "whole"))
        shutil.rmtree(folder / "whole")
    refused = reached = 0
    with room(folder / "disk") as mounted:
        faults = FAULTS if mounted else FAULTS[2:]
        for i in range(cases):
            fault, verb = faults[i % len(faults)], list(whole)[i // len(faults) % len(whole)]
            out = folder / "disk" / "out"
            before, line = calls(folder, codes, out)[verb][:-1], calls(folder, codes, out)[verb][-1]
            for each in before:
                outcome.check(command(each) == 0, f"{verb}: the run before the fault failed")
            states = {path: sha256_file(path) for path in (out / "state").glob("step-*/*")}
            begun = used(folder / "disk")
            place = draw.random()
            if mounted and fault == "full":
                extra = int(place * max(whole[verb][1] - begun, 8192) * 0.9)
                mount(folder / "disk", f"remount,size={(begun + extra) // 4096 * 4096 + 4096}")
            elif mounted and fault == "read-only":
                mount(folder / "disk", "remount,ro")
            child = Child(lambda pipe, line=line, fault=fault, place=place: faulty(pipe, line, fault, place))
            code, said = child.wait(), child.read().decode()
            child.close()
            if mounted:
                mount(folder / "disk", f"remount,rw,size={ROOM}")
            case = f"{i}, {verb}, {fault} at {place:.2f}"
            outcome.check(code in (0, 2), f"{case}: ended with {code}: {said[-300:]}")
            lines = said.splitlines()
            if code == 2:
                refused += 1
                outcome.check("Traceback" not in said and TEMPORARY not in said, f"{case}: {said[-300:]}")
                outcome.check(bool(lines) and lines[-1].startswith("digit: "), f"{case}: {said[-300:]}")
            reached += code == 0
            outcome.check(code == 2 or fault != "read-only", f"{case}: wrote where nothing can be written")
            if code == 2:
                for path, mark in states.items():
                    outcome.check(
                        path.exists() and sha256_file(path) == mark, f"{case}: {path.name} has changed"
                    )
            again = command(line)
            outcome.check(again == 0, f"{case}: repeated, it ended with {again}")
            outcome.check(again == 0 and result(verb, out) == whole[verb][0], f"{case}: another result")
            left = list(out.rglob(f"{TEMPORARY}*"))
            outcome.check(not left, f"{case}: {left[:2]} were left")
            outcome.cases += 1
            shutil.rmtree(out)
    outcome.figures = {
        "refused": refused,
        "went through, the fault not reached": reached,
        "a real small file system": "yes" if mounted else "no",
    }
    return outcome


def calls(folder: Path, codes: Path, out: Path) -> dict[str, list[list[str]]]:
    """The command lines of each verb; all but the last are run before the fault."""
    train = (
        f"train prior --codes {codes} --out {out} --width 16 --layers 1 --heads 2 --batch 8 --warmup 1 "
        "--save-every 3 --schedule constant --device cpu --steps"
    )
    features = f"--few --features classifier:{folder / 'classifier'} --device cpu"
    pictures = folder / "pictures.zip"
    lines = {
        "train": [f"{train} 6", f"{train} 12"],
        "tokenize": [
            f"tokenize --images {pictures} --out {out} --tokenizer {folder / 'stages/tokenizer'} --device cpu"
        ],
        "sample": [f"sample {folder / 'model'} --num 6 --out {out} --npz {out}/all.npz --device cpu"],
        "evaluate": [
            f"evaluate images --samples {pictures} --reference {pictures} {features} --out {out}/result.json"
        ],
    }
    return {verb: [line.split() for line in each] for verb, each in lines.items()}


def faulty(pipe: int, line: list[str], fault: str, place: float) -> int:
    """A command whose disk fails; its exit code, and what it said into the pipe."""
    if fault == "quota":
        resource.setrlimit(resource.RLIMIT_FSIZE, (size := int(200 + place * 20_000), size))
    if fault == "EIO":
        flush, left = files._flush, [int(place * 8)]

        def fails(path: Path) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            flush(path)

        files._flush = fails
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = command(line)
    os.write(pipe, said.getvalue().encode()[-8000:])
    return code


def result(verb: str, out: Path) -> object:
    """What a command gave, to be compared."""
    if verb == "train":
        return training.weights(out)
    if verb == "tokenize":
        return Codes(out).array("codes").tobytes()
    if verb == "sample":
        return [sha256_file(path) for path in [*sorted(out.glob("*.png")), out / "all.npz"]]
    return read_json(out / "result.json")["values"]


def used(folder: Path) -> int:
    """Bytes of all files below, in whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def mount(folder: Path, options: str) -> bool:
    """Mount or remount a file system in memory; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def room(folder: Path) -> Iterator[bool]:
    """A small file system in memory at `folder`, or a plain folder where mounting is not allowed."""
    folder.mkdir()
    mounted = mount(folder, f"size={ROOM}")
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)

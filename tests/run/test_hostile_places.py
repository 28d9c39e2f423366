"""A full disk, a place that cannot be written, Ctrl-C: one sentence, no half files, a second try works."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digit import files
from digit.data.codes import Codes
from digit.files import TEMPORARY
from digit.pipeline import DigitPipeline
from digit.tensors import read_safetensors
from digit.weights.artifact import load

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def calls(chain, out) -> dict[str, list[str]]:
    """Each verb that writes, complete but for an output of its own below `out`."""
    root = chain.root
    lines = {
        "fit": (
            f"fit --images {chain.images} --out {out} --encoder vit_tiny_patch16_224 --encoder-weights"
            f" {root}/encoder.safetensors --encoder-size 16 --encoder-arguments patch_size 4 embed_dim 32"
            " depth 4 num_heads 2 --clusters 8 --per-cluster 64 --iterations 1 --device cpu"
        ),
        "tokenize": (
            f"tokenize --images {chain.images} --out {out} --tokenizer {root}/tokenizer --vqgan {root}/vqgan"
        ),
        "train": (
            f"train prior --codes {root}/codes --out {out} --width 16 --layers 1 --heads 2 --steps 2 --batch"
            " 4 --warmup 1 --device cpu"
        ),
        "compose": (
            f"compose --prior {root}/prior --vqgan {root}/vqgan --renderer {root}/renderer --out {out}"
        ),
        "sample": f"sample {root}/model --num 4 --out {out}",
        "evaluate": (
            f"evaluate images --samples {chain.images} --reference {chain.images} --few --features "
            f"classifier:{root}/classifier --out {out}/result.json"
        ),
    }
    return {name: line.split() for name, line in lines.items()}


VERBS = ("fit", "tokenize", "train", "compose", "sample", "evaluate")


@pytest.fixture(scope="module", autouse=True)
def classifier(chain):
    from digit.nn.classifier import Classifier, ClassifierConfig
    from digit.weights.artifact import save

    save(Classifier(ClassifierConfig(classes=3, width=4, image_size=16)), chain.root / "classifier")


def check_failed(code: int, err: str, words: str) -> None:
    assert code == 2, err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("digit: ")][-1:] == [err.splitlines()[-1]], (
        err
    )
    assert words in err
    assert TEMPORARY not in err


def check_whole(folder: Path, *, unfinished: tuple[str, ...]) -> None:
    """No temporary is left, none of the files that mean "done" is there, and what is there can be read."""
    assert not list(folder.rglob(f"{TEMPORARY}*"))
    for name in unfinished:
        assert not (folder / name).exists(), name
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".safetensors":
            read_safetensors(path)
        elif path.suffix in (".npy", ".npz"):
            assert np.load(path) is not None


def check_done(verb: str, out: Path) -> None:
    """The repeated command left all that it should."""
    if verb in ("fit", "train"):
        load(out, kind={"fit": "tokenizer", "train": "prior"}[verb])
    elif verb == "tokenize":
        assert len(Codes(out)) == 48
    elif verb == "sample":
        rows = json.loads((out / "samples.json").read_text())["samples"]
        assert all((out / row["file"]).is_file() for row in rows)
    else:
        assert (out / {"compose": "config.json", "evaluate": "result.json"}[verb]).is_file()


DONE = {
    "fit": ("config.json", "report.json"),
    "tokenize": ("meta.json", "codes.npy", "vq_codes.npy"),
    "train": ("config.json", "model.safetensors"),
    "compose": ("config.json",),
    "sample": ("samples.json",),
    "evaluate": ("result.json",),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("below", [False, True])
def test_a_file_where_the_folder_should_be(chain, run, tmp_path, verb, below):
    """Like a read-only folder, also for root, whom permissions do not bind."""
    file = tmp_path / "file"
    file.write_text("mine")
    code, out, err = run(*calls(chain, file / "x" if below else file)[verb])
    check_failed(code, err, str(file))
    assert not out
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_is_full(chain, run, tmp_path, monkeypatch, verb):
    out = tmp_path / "out"

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "_flush", full)
        code, shown, err = run(*calls(chain, out)[verb])
    check_failed(code, err, "space left")
    assert str(out) in err
    assert not shown
    check_whole(out, unfinished=DONE[verb])
    code, _, err = run(*calls(chain, out)[verb])
    assert code == 0, err
    check_done(verb, out)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("written", [2, 5])
def test_a_disk_that_fills_on_the_way(chain, run, tmp_path, monkeypatch, verb, written):
    out, flush, left = tmp_path / "out", files._flush, [written]

    def filling(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_flush", filling)
        code, _, err = run(*calls(chain, out)[verb])
    if left[0] >= 0:  # it writes less than that
        assert code == 0
    else:
        check_failed(code, err, "space left")
        check_whole(out, unfinished=DONE[verb][-1:] if verb == "fit" else DONE[verb][:1])
    assert run(*calls(chain, tmp_path / "again" if left[0] >= 0 else out)[verb])[0] == 0
    if left[0] < 0:
        check_done(verb, out)


def test_files_may_not_grow(chain, run, tmp_path):
    """The kernel itself refuses, in the midst of a write: every writer, safetensors' own too, is met."""
    wanted = {
        verb: calls(chain, tmp_path / verb)[verb]
        for verb in ("fit", "tokenize", "train", "compose", "sample")
    }
    script = (
        "import contextlib, io, json, resource, sys\n"
        "from digit.run.main import run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "results = {}\n"
        "for verb, call in json.loads(sys.argv[1]).items():\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        results[verb] = run(call), err.getvalue()\n"
        "print(json.dumps(results))\n"
    )
    command = [sys.executable, "-c", script, json.dumps(wanted)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    for verb, (code, err) in results.items():
        check_failed(code, err, str(tmp_path / verb))
        check_whole(tmp_path / verb, unfinished=DONE[verb])
        code, _, err = run(*wanted[verb])
        assert code == 0, err
        check_done(verb, tmp_path / verb)


def interrupt(call: list[str], when: Callable[[], bool], *, later: float = 0.0) -> None:
    """Start a command, press Ctrl-C once `when` holds, and see that it leaves politely."""
    command = [sys.executable, "-c", "from digit.run.main import main; main()", *call]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        try:
            deadline = time.monotonic() + 300
            while not when():
                assert process.poll() is None, process.stderr.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(later)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130, err.decode()
    lines = [
        line for line in err.decode().splitlines() if " s left" not in line and " pictures of " not in line
    ]
    assert len(lines) == 1, err.decode()
    assert lines[0].startswith("digit: interrupted")
    assert not out


def test_an_interrupted_tokenize_goes_on(chain, run, tmp_path, monkeypatch):
    from digit.data import write_codes as module

    turns = 100  # nine full parts and a rest
    with zipfile.ZipFile(chain.images) as few, zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        names = few.namelist()
        for turn in range(turns):
            for name in names:
                folder, file = name.split("/")
                archive.writestr(f"{folder}/{turn:03d}-{file}", few.read(name))
    out = tmp_path / "codes"
    many = tmp_path / "many.zip"
    call = f"tokenize --images {many} --out {out} --tokenizer {chain.root}/tokenizer --device cpu".split()
    interrupt(call, (out / "parts" / "0000000000.npz").exists)
    check_whole(out, unfinished=DONE["tokenize"])
    code, _, err = run("train", "prior", "--codes", out, "--out", tmp_path / "prior")
    assert code == 2
    assert "unfinished" in err
    write_parts, starts = module._write_parts, []

    def noted(source, out, kinds, blocks, **options):
        starts.extend(block.start for block in blocks)
        return write_parts(source, out, kinds, blocks, **options)

    monkeypatch.setattr(module, "_write_parts", noted)
    code, _, err = run(*call)
    assert code == 0, err
    assert 0 not in starts, "a finished part was made again"
    codes = Codes(out)
    assert len(codes) == turns * len(names)
    repeated = codes.array("codes").reshape(3, turns, -1, 2, 16)
    assert (repeated == Codes(chain.root / "codes").array("codes").reshape(3, 1, -1, 2, 16)).all()


def test_an_interrupted_sample_goes_on(chain, run, tmp_path, monkeypatch):
    out = tmp_path / "samples"
    call = f"sample {chain.root}/model --num 200 --batch 4 --out {out} --device cpu".split()
    interrupt(call, lambda: len(list(out.glob(".drawn/0*.json"))) > 1)
    check_whole(out, unfinished=DONE["sample"])  # what was drawn is whole, and no list says that it is all
    (out / "000001.png").write_bytes(b"another picture")
    seen, draw = [], DigitPipeline.__call__

    def watched(*arguments, **settings):
        seen.extend(settings["seeds"])
        return draw(*arguments, **settings)

    monkeypatch.setattr(DigitPipeline, "__call__", watched)
    code, _, err = run(*call)
    assert code == 0, err
    check_done("sample", out)
    # The second four are kept; the first, one of which has changed, and the last ones are drawn.
    assert seen[:4] == [0, 1, 2, 3]
    assert not {4, 5, 6, 7} & set(seen)
    assert {198, 199} <= set(seen)
    again = tmp_path / "again"
    assert run(*call[:-3], again, "--device", "cpu")[0] == 0
    for path in again.iterdir():
        if path.name != ".digit.json":  # names its own folder's files
            assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_sampling_interrupted_while_it_writes(chain, run, tmp_path, monkeypatch):
    """A list never describes pictures that are being drawn again."""
    out = tmp_path / "samples"
    call = ("sample", chain.root / "model", "--num", 4, "--temperature", "0", "--out", out)
    assert run(*call)[0] == 0
    (out / "000000.png").unlink()
    save, count = Image.Image.save, 0

    def interrupted(self, path, kind):
        nonlocal count
        count += 1
        if count == 3:
            path.write(b"\x89PNG half of a picture")
            raise KeyboardInterrupt
        save(self, path, kind)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", interrupted)
        code, _, err = run(*call)
    assert code == 130
    gone, interrupted_line = err.splitlines()
    assert "000000.png is gone" in gone and interrupted_line.startswith("digit: interrupted")
    check_whole(out, unfinished=DONE["sample"])
    assert run(*call)[0] == 0
    check_done("sample", out)
    assert json.loads((out / "samples.json").read_text())["settings"]["prior"]["temperature"] == 0

"""Verbs over one, two and four processes: the same bytes; lost processes, locks, sixteen commands at once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_hub import fake_hub
from PIL import Image

from digit.data.codes import Codes
from digit.files import TEMPORARY
from digit.run.claim import MARK
from digit.run.processes import LAUNCHER
from digit.training import checkpoint
from digit.training.log import read_status
from digit.weights.artifact import load

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
COUNTS = (4, 2, 1)


def with_broken(source: str, path: Path) -> Path:
    """The chain's pictures, six of them cut short: two in one part of eight, and a whole batch of four."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w") as archive:
        for place, name in enumerate(sorted(whole.namelist())):
            data = whole.read(name)
            archive.writestr(name, data[:60] if place in (9, 11, 20, 21, 22, 23) else data)
    return path


@pytest.fixture(scope="module")
def together(chain, tmp_path_factory) -> SimpleNamespace:
    """What each process of each entry said, by the entry's name, and the folder that all wrote into."""
    root = tmp_path_factory.mktemp("together")
    images = with_broken(chain.images, root / "broken.zip")
    few, flat = root / "few.zip", root / "flat.zip"
    with zipfile.ZipFile(chain.images) as whole, zipfile.ZipFile(few, "w") as archive:
        for name in sorted(whole.namelist())[::7]:
            archive.writestr(name, whole.read(name))
        with zipfile.ZipFile(flat, "w") as without:
            for name in sorted(whole.namelist())[:3]:
                without.writestr(name.replace("/", "-"), whole.read(name))
    entries: dict[str, dict] = {}

    def add(name: str, processes: int, *arguments: object, **more: object) -> None:
        entries[name] = {"processes": processes, "arguments": [str(part) for part in arguments], **more}

    def codes(name: str, processes: int, **more: object) -> None:
        call = ("--tokenizer", chain.root / "tokenizer", "--vqgan", chain.root / "vqgan", "--batch", 4)
        folder = root / name.partition(" ")[0]
        add(name, processes, "tokenize", "--images", images, "--out", folder, *call, "--json", **more)

    encoder = ("vit_tiny_patch16_224", "--encoder-weights", chain.root / "encoder.safetensors")
    encoder += ("--encoder-size", 16, "--encoder-arguments", "patch_size", 4, "embed_dim", 32)
    encoder += ("depth", 4, "num_heads", 2, "--clusters", 8, "--per-cluster", 32, "--iterations", 5)
    model = ("sample", chain.root / "model", "--json", "--device", "cpu")
    for count in COUNTS:
        codes(f"codes-{count}", count)
        call = ("--out", root / f"fit-{count}", "--encoder", *encoder, "--batch", 4, "--json")
        add(f"fit-{count}", count, "fit", "--images", images, *call)
        call = ("--num", 11, "--batch", 2, "--codes", "--npz", root / f"sample-{count}.npz")
        add(f"sample-{count}", count, *model, *call, "--out", root / f"sample-{count}")
        call = ("--prefix-from", few, "--prefix", 5, "--num", 2, "--batch", 4)
        add(f"complete-{count}", count, *model, *call, "--out", root / f"complete-{count}")
        call = ("--reference", chain.images, "--features", "inception", "--few", "--batch", 4, "--json")
        call += ("--metrics", "fd", "sfd", "is", "kd", "precision_recall", "class_accuracy")
        add(f"evaluate-{count}", count, "evaluate", "images", "--samples", root / "sample-4", *call)
        add(f"npz-{count}", count, "evaluate", "images", "--samples", root / "sample-4.npz", *call)
    shape = ("--width", 16, "--layers", 1, "--heads", 2, "--steps", 3, "--warmup", 1, "--device", "cpu")
    sets = ("--codes", chain.root / "codes", "--images", chain.images, "--held-out", chain.root / "codes")
    for count in (2, 1):
        call = ("--held-out-images", chain.images, "--batch", 8, "--micro-batch", 4, "--json")
        add(
            f"flow-{count}",
            count,
            "train",
            "renderer",
            "--flow",
            *sets,
            *shape,
            *call,
            "--out",
            root / f"flow-{count}",
        )
    call = ("--seeds", "3-6,9", "--batch", 2, "--codes", "--out", root / "some")
    add("some seeds", 2, *model, *call)
    call = ("--seeds", "3-4,8", "--batch", 4, "--codes", "--out", root / "from-nothing")
    add("from nothing", 2, *model, "--prefix-from", flat, "--prefix", 0, *call)
    codes("lost", 2, kill=[1, 1])
    codes("lost again", 4, flip=str(root / "lost" / "parts" / "0000000000.npz"))
    (root / "held").mkdir()
    codes("held", 2, hold=str(root / "held"))
    call = ("--num", 3, "--out", root / "sample-4")
    add("held sample", 2, *model, *call, hold=str(root / "sample-4"))
    (root / "at-once").mkdir()
    codes("at-once", 16, alone=True)
    call = ("--num", 5, "--batch", 2, "--out", root / "at-once-s", "--npz", root / "at-once-s.npz")
    add("samples at once", 6, *model, *call, alone=True)
    with fake_hub() as hub:
        hub.files["owner/name/file.bin"] = os.urandom(3_000_000)
        add("sixteen fetch", 16, alone=True, fetch=[hub.endpoint, str(root / "cache")])
        (root / "plan.json").write_text(json.dumps(list(entries.values())))
        (root / "said").mkdir()
        script = [sys.executable, str(Path(__file__).parent / "together.py")]
        done = subprocess.run(
            [*script, root / "plan.json", root / "said"], env=ENVIRONMENT, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    said = {
        name: [
            json.loads(path.read_text()) if path.exists() else None
            for path in (root / "said" / f"{number}-{rank}.json" for rank in range(entry["processes"]))
        ]
        for number, (name, entry) in enumerate(entries.items())
    }
    return SimpleNamespace(root=root, said=said, hub=hub)


def files(folder: Path) -> dict[str, bytes]:
    """What a command made; its mark names the command and its paths."""
    made = (path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in made}


def told(err: str) -> list[str]:
    """What was said after the line that says what pictures were read."""
    return [line for line in err.splitlines() if not re.search(r": \d+ pictures of 3 classes \(", line)]


def check_well(results: list) -> dict:
    """All processes ended well and the main one alone spoke; its result."""
    assert [result[0] for result in results] == [0] * len(results), results
    assert not any(out or err for _, out, err in results[1:])
    return json.loads(results[0][1])


@pytest.mark.parametrize("count", COUNTS)
def test_codes_are_the_same_bytes(together, count):
    result = check_well(together.said[f"codes-{count}"])
    assert (result["images"], result["skipped"]) == (42, 6)
    found, expected = files(together.root / f"codes-{count}"), files(together.root / "codes-1")
    assert found == expected
    assert set(found) == {"codes.npy", "vq_codes.npy", "labels.npy", "meta.json"}
    skipped = json.loads(found["meta.json"])["skipped"]
    assert [name for name, _ in skipped] == sorted(name for name, _ in skipped)
    assert "6 pictures were skipped" in together.said[f"codes-{count}"][0][2]


@pytest.mark.parametrize("count", COUNTS)
def test_fit_has_the_same_sample_and_inertia(together, count):
    result, expected = (check_well(together.said[f"fit-{n}"]) for n in (count, 1))
    for key in ("pictures", "skipped", "vectors"):
        assert result[key] == expected[key]
    assert result["vectors"] == 8 * 32
    assert result["inertia"] == pytest.approx(expected["inertia"], rel=1e-9)
    centroids = [load(together.root / f"fit-{n}", kind="tokenizer").centroids for n in (count, 1)]
    np.testing.assert_allclose(*(part.numpy() for part in centroids), rtol=1e-5, atol=1e-6)
    reports = [json.loads((together.root / f"fit-{n}" / "skipped.json").read_text()) for n in (count, 1)]
    assert reports[0] == reports[1]
    assert len(reports[0]["skipped"]) == 6


def test_a_flow_renderer_trains_in_two_processes_as_in_one(together):
    result, expected = (check_well(together.said[f"flow-{count}"]) for count in (2, 1))
    for name in ("loss", "held_out_loss"):
        assert result[name] == pytest.approx(expected[name], rel=1e-5)
    two, one = (load(together.root / f"flow-{count}").parameters() for count in (2, 1))
    for here, there in zip(two, one, strict=True):
        np.testing.assert_allclose(here.detach().numpy(), there.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("count", COUNTS)
def test_samples_are_the_same_bytes(together, count):
    assert check_well(together.said[f"sample-{count}"])["pictures"] == 11
    found = files(together.root / f"sample-{count}")
    assert found == files(together.root / "sample-1")
    assert set(found) == {f"{seed:06d}.png" for seed in range(11)} | {"grid.png", "samples.json"}
    npz = [(together.root / f"sample-{n}.npz").read_bytes() for n in (count, 1)]
    assert npz[0] == npz[1]
    with np.load(together.root / f"sample-{count}.npz") as arrays:
        for seed, pixels in enumerate(arrays["arr_0"]):
            with Image.open(together.root / f"sample-{count}" / f"{seed:06d}.png") as image:
                np.testing.assert_array_equal(np.asarray(image), pixels)
        assert arrays["arr_1"].tolist() == [seed % 3 for seed in range(11)]


def test_a_seed_is_its_class_and_picture_in_any_list_of_two_processes(together):
    check_well(together.said["some seeds"])
    found, expected = files(together.root / "some"), files(together.root / "sample-1")
    pictures = {f"{seed:06d}.png" for seed in (3, 4, 5, 6, 9)}
    assert {name: found[name] for name in pictures} == {name: expected[name] for name in pictures}
    whole = json.loads(expected["samples.json"])["samples"]
    assert json.loads(found["samples.json"])["samples"] == [whole[seed] for seed in (3, 4, 5, 6, 9)]
    check_well(together.said["from nothing"])
    rows = json.loads((together.root / "from-nothing" / "samples.json").read_text())["samples"]
    assert len(rows) == 9
    for row in rows:  # nothing is given of three pictures without classes: the seed decides
        assert (row["label"], row["codes"]) == (row["seed"] % 3, whole[row["seed"]]["codes"])


@pytest.mark.parametrize("count", COUNTS)
def test_completions_are_the_same_bytes(together, count):
    assert check_well(together.said[f"complete-{count}"])["pictures"] == 14
    found = files(together.root / f"complete-{count}")
    assert found == files(together.root / "complete-1")
    assert len(found) == 14 + 7 + 2  # completions, strips, grid and list


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["evaluate", "npz"])
def test_metrics_are_the_same(together, kind, count):
    result, expected = (check_well(together.said[f"{kind}-{n}"]) for n in (count, 1))
    assert result["counts"] == {"samples": 11, "reference": 48}
    assert {"FID", "sFID", "IS", "KID", "precision", "recall"} <= set(result["values"])
    assert result["values"] == pytest.approx(expected["values"], rel=1e-9, abs=1e-12)
    for name in (
        "IS",
        "KID",
        "precision",
        "recall",
    ):  # of features in the pictures' order, so to the last bit
        assert result["values"][name] == expected["values"][name]


def test_parts_of_a_lost_process_and_damaged_ones_are_made_again(together):
    first, second = together.said["lost"]
    assert second is None  # it vanished
    assert first[0] == 2
    (sentence,) = told(first[2])
    assert sentence.startswith("digit: another process of this command has ended: ")
    check_well(together.said["lost again"])
    assert files(together.root / "lost") == files(together.root / "codes-1")


@pytest.mark.parametrize("name", ["held", "held sample"])
def test_a_folder_that_another_command_writes_is_refused(together, name):
    verb = {"held": "tokenizing", "held sample": "drawing pictures"}[name]
    for code, out, err in together.said[name]:
        assert (code, out) == (2, "")
        assert f"another process is {verb}" in err
        assert len(told(err)) == 1


def test_commands_at_once_on_one_folder_tear_nothing(together):
    for name, words in (("at-once", "tokenizing"), ("samples at once", "drawing")):
        results = together.said[name]
        assert 0 in [code for code, _, _ in results]
        for code, _, err in results:
            assert code == 0 or (code == 2 and f"another process is {words}" in err), err
    assert files(together.root / "at-once") == files(together.root / "codes-1")
    assert len(Codes(together.root / "at-once")) == 42
    drawn = files(together.root / "at-once-s")
    assert set(drawn) == {f"{seed:06d}.png" for seed in range(5)} | {"grid.png", "samples.json"}
    expected = files(together.root / "sample-1")
    assert all(drawn[f"{seed:06d}.png"] == expected[f"{seed:06d}.png"] for seed in range(5))
    assert not list(together.root.rglob(f"{TEMPORARY}*"))


def test_sixteen_downloads_into_one_cache(together):
    for code, path, err in together.said["sixteen fetch"]:
        assert code == 0, err
        assert Path(path).read_bytes() == together.hub.files["owner/name/file.bin"]
    assert len(together.hub.ranges) == 1  # one fetched it, the others waited for it


@pytest.mark.parametrize("verb", ["tokenize", "sample"])
def test_the_option_processes(chain, together, tmp_path, verb):
    out = tmp_path / "out"
    if verb == "tokenize":
        call = ["tokenize", "--images", together.root / "broken.zip", "--batch", 4]
        call += ["--tokenizer", chain.root / "tokenizer", "--vqgan", chain.root / "vqgan"]
    else:
        call = ["sample", chain.root / "model", "--num", 11, "--batch", 2, "--codes", "--device", "cpu"]
    command = [
        sys.executable,
        "-m",
        "digit",
        *map(str, call),
        "--out",
        str(out),
        "--processes",
        "2",
        "--json",
    ]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    found, expected = files(out), files(together.root / {"tokenize": "codes-1", "sample": "sample-1"}[verb])
    if verb == "tokenize":  # whose parts are larger here
        found["meta.json"] = expected["meta.json"]
    assert found == expected


def test_what_all_processes_find_is_said_once(chain, tmp_path):
    folder = tmp_path / "codes"
    shutil.copytree(chain.root / "codes", folder)
    data = bytearray((folder / "codes.npy").read_bytes())
    data[-1] ^= 1
    (folder / "codes.npy").write_bytes(data)
    for codes, said in (
        (folder, "codes.npy is missing or damaged"),
        (tmp_path, "holds no tokenised data set"),
    ):
        command = [
            sys.executable,
            "-m",
            "digit",
            "train",
            "prior",
            "--codes",
            codes,
            "--out",
            tmp_path / "prior",
        ]
        command += ["--processes", "2", "--device", "cpu", "--batch", "4"]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and said in done.stderr, done.stderr
    assert not (tmp_path / "prior").exists()


def without_launcher(command: list, begun: Path) -> str:
    """Kill the process that started the others when `begun` is there; what they said until they had gone."""
    words = [sys.executable, "-m", *map(str, command)]
    with subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as launcher:
        while not begun.exists():
            assert launcher.poll() is None, launcher.communicate()[1]
            time.sleep(0.05)
        launcher.kill()
        return launcher.communicate(timeout=120)[1]  # the pipe is closed when the last of them ends


def test_a_training_whose_launcher_is_killed_saves_and_goes_on(chain, run, tmp_path):
    options = ("--width", 16, "--layers", 1, "--heads", 2, "--batch", 4, "--warmup", 1, "--device", "cpu")
    call = (
        "train",
        "prior",
        "--codes",
        chain.root / "codes",
        "--out",
        tmp_path,
        *options,
        "--save-every",
        20,
    )
    endless = ["digit", *call, "--steps", 1_000_000, "--processes", 2]
    said = without_launcher(endless, checkpoint.path_of(tmp_path / "state", 20))
    assert "interrupted: saved unfinished" in said and "Traceback" not in said, said
    status = read_status(tmp_path)
    assert status is not None and status.reason == "interrupted" and 20 <= status.step < 1_000_000
    assert checkpoint.path_of(tmp_path / "state", status.step).is_dir()
    code, _, said = run(*call, "--steps", status.step + 1)
    assert code == 0 and f"resumed from step-{status.step:07d}" in said, said


def test_a_command_whose_launcher_is_killed_leaves(chain, tmp_path):
    call = ("sample", chain.root / "model", "--num", 1_000_000, "--out", tmp_path / "out", "--device", "cpu")
    agent = ["torch.distributed.run", "--nproc-per-node", 2, "-m", "--", "digit"]
    said = without_launcher([*agent, *call], tmp_path / "out" / ".lock")
    assert "digit: interrupted; what is written is whole" in said and "Traceback" not in said, said


@pytest.mark.parametrize(("deaf", "number"), [(False, signal.SIGTERM), (True, signal.SIGKILL)])
def test_a_launcher_that_has_gone_before_it_is_looked_for(deaf, number):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    told = {LAUNCHER: str(gone.pid), "TORCHELASTIC_RUN_ID": "x", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "0"}
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " * deaf
    program = f"from digit.run.processes import signal, with_launcher; {ignore}with_launcher(); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=ENVIRONMENT | told, stdin=subprocess.PIPE) as process:
        assert process.wait(120) == -number

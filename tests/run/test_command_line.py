"""The command line as people use it: each verb on a tiny chain, and what bad input gets."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digit.data.codes import Codes
from digit.run.sample import parse_seeds
from digit.weights.artifact import load


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_fit_leaves_an_artifact_with_its_report(chain):
    folder = chain.root / "tokenizer"
    tokenizer = load(folder, kind="tokenizer")
    assert tokenizer.centroids.shape == (8, 32)
    report = json.loads((folder / "report.json").read_text())
    assert 0 < report["usage"] <= 1
    assert len(report["inertia_by_iteration"]) == 6  # of each start, and of the result
    assert picture_size(folder / "codebook.png") > (64, 64)


def test_tokenize_gives_what_the_artifact_gives(chain, run):
    codes = Codes(chain.root / "codes")
    assert codes.array("codes").shape == (48, 2, 16)
    assert codes.array("vq_codes").shape == (48, 2, 16)
    made_by = ("--tokenizer", chain.root / "tokenizer", "--vqgan", chain.root / "vqgan")
    code, out, _ = run(
        "tokenize", "--images", chain.images, "--out", chain.root / "codes", *made_by, "--json"
    )
    assert code == 0  # done already: the same command returns at once
    assert json.loads(out)["images"] == 48


@pytest.mark.parametrize("name", ["vqgan", "prior", "prior_vq", "renderer", "masked"])
def test_training_leaves_artifact_log_and_pictures(chain, name):
    folder = chain.root / name
    load(folder)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert (folder / "loss.png").exists()
    assert len(list((folder / "samples").glob("*.png"))) == 1
    if name in ("prior", "renderer"):
        assert any("held_out_loss" in line for line in lines)


def test_sample_writes_pictures_grid_and_list(chain, run, tmp_path):
    options = ("--seeds", "3-5,9", "--labels", "red", "2", "--codes", "--json")
    code, out, _ = run("sample", chain.root / "model", *options, "--out", tmp_path / "s")
    assert code == 0
    rows = json.loads((tmp_path / "s" / "samples.json").read_text())["samples"]
    assert [row["seed"] for row in rows] == [3, 4, 5, 9]
    assert [row["class"] for row in rows] == ["red", "red", "red", "red"]
    assert len(rows[0]["codes"]) == 16
    assert len(rows[0]["vq_codes"]) == 16
    for row in rows:
        assert picture_size(tmp_path / "s" / row["file"]) == (16, 16)
    assert picture_size(tmp_path / "s" / "grid.png")[0] > 64
    assert json.loads(out)["pictures"] == 4


def test_a_seed_fixes_the_picture_whatever_the_batch(chain, run, tmp_path):
    for name, options in (
        ("a", ("--seeds", "0-6", "--batch", "7")),
        ("b", ("--seeds", "0-6", "--batch", "2")),
    ):
        assert run("sample", chain.root / "model", *options, "--out", tmp_path / name)[0] == 0
    for seed in range(7):
        files = [(tmp_path / name / f"{seed:06d}.png").read_bytes() for name in ("a", "b")]
        assert files[0] == files[1]


@pytest.mark.parametrize(
    "options",
    [
        ("--unconditional",),
        ("--renderer", "masked", "--steps", "2", "--noise", "1.5"),
        ("--guidance", "2", "--guidance-schedule", "linear"),
        ("--temperature", "0"),
        ("--top-k", "3", "--top-p", "0.9"),
    ],
)
def test_ways_to_sample(chain, run, tmp_path, options):
    code, _, err = run("sample", chain.root / "model", "--num", 2, *options, "--out", tmp_path / "s")
    assert code == 0, err


def test_class_accuracy_only_where_the_network_knows_the_classes(chain, run, tmp_path):
    from digit.nn.classifier import Classifier, ClassifierConfig
    from digit.weights.artifact import save

    config = ClassifierConfig(classes=3, width=4, image_size=16)
    save(Classifier(config), tmp_path / "knows", classes=["red", "blue", "green"])
    save(Classifier(config), tmp_path / "other", classes=["cat", "dog", "horse"])
    run("sample", chain.root / "model", "--num", 12, "--out", tmp_path / "s")
    networks = [f"classifier:{tmp_path / name}" for name in ("knows", "other")]
    sets = ("--samples", tmp_path / "s", "--reference", chain.images)
    code, out, err = run("evaluate", "images", *sets, "--features", *networks, "--few", "--json")
    assert code == 0, err
    result = json.loads(out)
    with_accuracy = [name for name in result["values"] if name.startswith("class accuracy")]
    assert len(with_accuracy) == 1
    assert with_accuracy[0].endswith(result["features"][0]["name"])


def test_evaluate_the_samples_and_compare_with_themselves(chain, run, tmp_path):
    from digit.nn.classifier import Classifier, ClassifierConfig
    from digit.weights.artifact import save

    save(
        Classifier(ClassifierConfig(classes=3, width=4, image_size=16)),
        tmp_path / "c",
        classes=["blue", "green", "red"],
    )
    run("sample", chain.root / "model", "--num", 24, "--out", tmp_path / "s")
    call = ("evaluate", "images", "--samples", tmp_path / "s", "--features", f"classifier:{tmp_path / 'c'}")
    code, _, err = run(*call, "--reference", chain.images)
    assert code == 2
    assert "24 pictures" in err
    code, out, _ = run(*call, "--reference", chain.images, "--few", "--out", tmp_path / "r.json", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["counts"] == {"samples": 24, "reference": 48}  # grid.png is none of them
    names = " ".join(result["values"])
    assert "FD-classifier" in names
    assert "class accuracy" in names
    assert json.loads((tmp_path / "r.json").read_text()) == result
    code, out, _ = run("info", tmp_path / "r.json", "--json")
    assert code == 0
    assert json.loads(out) == result


@pytest.mark.parametrize("name", ["tokenizer", "vqgan", "prior", "model", "codes"])
def test_info(chain, run, name):
    code, out, _ = run("info", chain.root / name, "--json")
    assert code == 0
    assert json.loads(out)["kind"] == {"model": "pipeline"}.get(name, name)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("sample no/such/model", "no model no/such/model"),
        ("sample {root}/model --labels purple", "unknown label 'purple': choose from blue, green, red"),
        ("sample {root}/model --labels 3", "out of range: choose 0 to 2"),
        ("sample {root}/model --num 0", "at least one picture"),
        ("sample {root}/model --num 2 --seeds 1", "--num and --seeds"),
        ("sample {root}/model --seeds 4-2", "rising ranges"),
        ("sample {root}/model --top-p 1.5", "top-p is 1.5"),
        ("sample {root}/model --unconditional --guidance 2", "guidance needs labels"),
        ("sample {root}/prior", "not a pipeline"),
        (
            "fit --images {root}/nothing --out {tmp}/t --encoder vit_tiny_patch16_224 "
            "--encoder-weights {root}/encoder.safetensors",
            "nothing",
        ),
        (
            "fit --images {images} --out {tmp}/t --encoder vit_tiny_patch16_224 --encoder-weights "
            "{root}/missing.safetensors",
            "missing.safetensors",
        ),
        (
            "fit --images {images} --out {tmp}/t --encoder vit_tiny_patch16_224 --encoder-weights "
            "{root}/encoder.safetensors",
            "encoder.safetensors",
        ),
        (
            "fit --images {images} --out {tmp}/t --encoder vit_tiny_patch16_224 --encoder-weights "
            "{root}/encoder.safetensors --encoder-size 16 --encoder-arguments patch_size 4 embed_dim "
            "32 depth 4 num_heads 2 --clusters 5000",
            "--clusters 5000 is more than",
        ),
        ("tokenize --images {images} --out {tmp}/c", "give --tokenizer, --vqgan"),
        ("tokenize --images {images} --out {tmp}/c --tokenizer {root}/vqgan", "is a vqgan"),
        ("train prior --codes {root}/model --out {tmp}/p", "no meta.json"),
        ("compose --prior {root}/prior --vqgan {root}/vqgan --out {root}/model", "already holds"),
        ("evaluate images --samples {images} --reference {images} --features nose", "no network"),
        ("info {root}", "nothing that digit wrote"),
        ("sample {root}/model --device abacus", "unknown device"),
    ],
)
def test_bad_input_is_one_sentence(chain, run, tmp_path, call, words):
    filled = [part.format(root=chain.root, images=chain.images, tmp=tmp_path) for part in call.split()]
    if filled[0] == "sample":
        filled += ["--out", str(tmp_path / "s")]
    code, out, err = run(*filled)
    assert code == 2, err
    assert words in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("digit: ")]) == 1
    assert not out
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not left, f"something was left behind: {left}"


def test_a_prior_refuses_codes_of_another_tokenizer(chain, run, tmp_path):
    from digit.run.fit import fit

    fit(chain.images, tmp_path / "other", **chain.fitted, iterations=1, seed=5, device="cpu")
    other, vqgan = ("--tokenizer", tmp_path / "other"), ("--vqgan", chain.root / "vqgan")
    code, _, err = run("tokenize", "--images", chain.images, "--out", chain.root / "codes", *other, *vqgan)
    assert code == 2
    assert "another streams" in err
    stages = ("--prior", chain.root / "prior", *vqgan, "--renderer", chain.root / "renderer", *other)
    code, _, err = run("compose", *stages, "--out", tmp_path / "m")
    assert code == 2
    assert "belongs to the tokenizer" in err
    assert not (tmp_path / "m").exists()


def test_damaged_artifact(chain, run, tmp_path):
    import shutil

    shutil.copytree(chain.root / "model", tmp_path / "m")
    path = tmp_path / "m" / "prior" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    code, _, err = run("sample", tmp_path / "m", "--out", tmp_path / "s")
    assert code == 2
    assert "model.safetensors" in err
    assert not (tmp_path / "s").exists()


def test_an_interrupted_training_exits_130_and_goes_on(chain, tmp_path):
    options = "--width 16 --layers 1 --heads 2 --steps 100000 --batch 4 --warmup 1 --device cpu --log-every 1"
    folders = ["--codes", str(chain.root / "codes"), "--out", str(tmp_path / "p")]
    digit = [sys.executable, "-c", "from digit.run.main import main; main()"]
    command = [*digit, "train", "prior", *folders, *options.split()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    log = tmp_path / "p" / "log.jsonl"
    deadline = time.monotonic() + 300
    while not (log.exists() and '"loss"' in log.read_text()):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err.decode()
    assert "interrupted" in err.decode()
    assert "Traceback" not in err.decode()
    status = json.loads((tmp_path / "p" / "status.json").read_text())
    assert not status["finished"]
    load(tmp_path / "p", kind="prior")


def test_seeds():
    assert parse_seeds("0-3, 7") == [0, 1, 2, 3, 7]


def test_the_same_chain_from_a_folder_of_odd_pictures(chain, run, tmp_path):
    """A folder as people have them: formats mixed, one file broken, one that is no picture."""
    from odd_pictures import broken, readable

    folder = tmp_path / "odd"
    folder.mkdir()
    for name, data in {**readable(), **broken()}.items():
        (folder / f"{name.replace(' ', '-')}.png").write_bytes(data)
    good = len(readable())
    options = ("--out", tmp_path / "codes", "--vqgan", chain.root / "vqgan", "--json")
    code, out, err = run("tokenize", "--images", folder, *options)
    assert code == 0, err
    result = json.loads(out)
    assert result["images"] == good
    assert result["skipped"] == len(broken())
    codes = Codes(tmp_path / "codes")
    assert codes.labels is None
    assert np.asarray(codes.array("vq_codes")).max() < 16


def test_sample_writes_batch_by_batch(chain, run, tmp_path, monkeypatch):
    """The same pictures in pieces, each on the disk before the next is drawn; labels go on in turn."""
    from digit.pipeline import DigitPipeline

    model = (chain.root / "model", "--device", "cpu", "--seeds", "3-9")
    run("sample", *model, "--out", tmp_path / "whole")
    seen, draw = [], DigitPipeline.__call__

    def watched(*arguments, **settings):
        seen.append(len(list((tmp_path / "pieces").glob("0*.png"))))
        return draw(*arguments, **settings)

    monkeypatch.setattr(DigitPipeline, "__call__", watched)
    code, _, _ = run("sample", *model, "--out", tmp_path / "pieces", "--batch", 3)
    assert code == 0
    assert seen == [0, 3, 6]
    for path in (tmp_path / "whole").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "pieces" / path.name).read_bytes(), path.name
    lists = [json.loads((tmp_path / name / "samples.json").read_text()) for name in ("whole", "pieces")]
    assert lists[0] == lists[1]


def test_an_unknown_label_stops_before_the_first_picture(chain, run, tmp_path):
    call = ("--labels", "red", "green", "purple", "--num", 9, "--batch", 1, "--out", tmp_path / "s")
    code, _, errors = run("sample", chain.root / "model", *call)
    assert code == 2
    assert "purple" in errors
    assert not list((tmp_path / "s").glob("*.png"))

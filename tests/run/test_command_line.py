"""The command line as people use it: each verb on a tiny chain, and what bad input gets."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from digit.weights.artifact import load


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


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
    kept = json.loads((tmp_path / "r.json").read_text())
    code, out, _ = run("info", tmp_path / "r.json", "--json")
    assert code == 0
    assert json.loads(out) == kept
    assert kept.pop("made_of")["samples"]  # what a repeated command is compared with
    assert kept == result


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("sample no/such/model", "no model no/such/model"),
        ("sample {root}/model --labels purple", "unknown label 'purple': choose from blue, green, red"),
        ("sample {root}/model --labels 3", "out of range: choose 0 to 2"),
        ("sample {root}/model --num 0", "--num: 0 is out of bounds: give a whole number from 1"),
        ("sample {root}/model --num 2 --seeds 1", "--num and --seeds"),
        ("sample {root}/model --seeds 4-2", "rising ranges"),
        (
            "sample {root}/model --top-p 1.5",
            "--top-p: 1.5 is out of bounds: give a number above 0 and up to 1",
        ),
        (
            "sample {root}/model --unconditional --guidance 2",
            "guidance needs classes: leave out --guidance, or --unconditional",
        ),
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

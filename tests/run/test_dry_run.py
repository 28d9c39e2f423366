"""--dry-run: what the run would use and take; nothing is written, and what the run refuses it refuses."""

import json
import os
from typing import get_args

import pytest

from digit.locks import locked
from digit.run.dry_run import GPU
from digit.training.estimate import MEMORY
from digit.training.flops import PEAKS


def options(chain, verb):
    """The command that made a part of the chain."""
    root, training = chain.root, ("--steps", 3, "--batch", 8, "--log-every", 1, "--warmup", 1)
    small = ("--width", 16, "--layers", 1, "--heads", 2, *training, "--device", "cpu")
    codes = ("--codes", root / "codes")
    return {
        "prior": (*codes, "--label-dropout", 0.5, "--held-out", root / "codes", *small),
        "renderer": (*codes, "--vqgan", root / "vqgan", "--held-out", root / "codes", *small),
        "renderer_masked": (*codes, *small),
        "vq_only": (*codes, *small),
        "vqgan": ("--images", chain.images, *training[2:], "--image-size", 16, "--width", 8),
        "linear_probe": ("--prior", root / "prior", *codes, "--held-out", root / "codes", "--batch", 16),
    }[verb]


VERBS = {
    "renderer_masked": ("renderer", "--recipe", "renderer_masked"),
    "vq_only": ("prior", "--recipe", "vq_only"),
    "linear_probe": ("probe", "--recipe", "linear_probe"),
}


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("verb", ["prior", "renderer", "renderer_masked", "vq_only", "vqgan", "linear_probe"])
def test_every_training_tells_and_writes_nothing(chain, run, json_of, verb, tmp_path):
    before = files(chain.root)
    code, out, err = run(
        *("train", *VERBS.get(verb, (verb,))),
        *(*options(chain, verb), "--out", tmp_path / "run", "--dry-run", "--json"),
    )
    assert code == 0, err
    assert files(chain.root) == before and not list(tmp_path.iterdir())
    told = json_of(out)
    assert told["state"] == "starts anew"
    assert told["memory"]["fits"] and told["disk"]["fits"]
    parts = told["memory"]["gib"]
    assert parts["weights"] > 0 and parts["activations"] > 0
    assert told["memory"]["total_gib"] == pytest.approx(sum(parts.values()))
    assert told["flops"]["per_update"] == told["flops"]["per_sample"] * told["settings"]["training"]["batch"]
    assert told["flops"]["per_update"] > 0 and told["inputs"]["pictures"] == 48
    assert ("hours" in told["time"]) == (verb != "vqgan")
    assert (
        told["epochs"] == told["settings"]["training"]["steps"] * told["settings"]["training"]["batch"] / 48
    )
    assert (told["parameters"]["frozen"] > 0) == (verb in ("linear_probe", "vqgan"))


def test_settings_are_those_that_the_run_stores(chain, run, json_of):
    folder = chain.root / "prior"
    code, out, err = run("train", "prior", *options(chain, "prior"), "--out", folder, "--dry-run", "--json")
    assert code == 0, err
    told = json_of(out)
    assert told["settings"]["model"] == json.loads((folder / "config.json").read_text())["config"]
    newest = sorted((folder / "state").glob("step-*"))[-1]
    stored = json.loads((newest / "state.json").read_text())["config"]
    assert told["settings"]["training"] == stored
    assert told["state"] == f"{newest.name} is the end of this run: nothing would be done"


def test_a_recipe_for_gpus_and_money(chain, run, json_of, tmp_path):
    base = ("train", "prior", "--recipe", "base", "--layers", 2, "--codes", chain.root / "codes")
    base += ("--out", tmp_path / "run", "--json")
    one = json_of(run(*base, "--dry-run", "--price-per-hour", 2.5)[1])
    eight = json_of(run(*base, "--dry-run", "--price-per-hour", 2.5, "--processes", 8)[1])
    assert one["settings"]["training"]["steps"] == 125_000
    assert eight["time"]["gpus"] == 8
    assert eight["time"]["hours"] == pytest.approx(one["time"]["hours"] / 8 / 0.95)
    assert one["time"]["cost"] == pytest.approx(2.5 * one["time"]["hours"])
    assert eight["time"]["cost"] == pytest.approx(one["time"]["cost"] / 0.95)
    assert "measured on one H100" in one["time"]["assumes"] and "no measurement" in eight["time"]["assumes"]


def test_what_does_not_fit_is_said_with_what_to_change(chain, run, tmp_path):
    large = ("train", "prior", "--codes", chain.root / "codes", "--out", tmp_path / "run", "--dry-run")
    wide = ("--width", 64, "--layers", 4, "--batch", 1 << 23, "--micro-batch", 1 << 23)
    code, out, err = run(*large, *wide)
    assert code == 0 and "GiB in all" in out
    assert "give --micro-batch " in err
    size = err.split("--micro-batch ")[1].split()[0]
    assert "--micro-batch" not in run(*large, *wide[:-1], size)[2]
    code, _, err = run(*large, "--width", 32768, "--layers", 2)
    assert code == 0 and "give --sharded and several --gpus" in err
    assert not list(tmp_path.iterdir())


def test_what_the_run_would_refuse_is_refused(chain, run, tmp_path):
    base = ("--codes", chain.root / "codes", "--dry-run")
    code, _, err = run("train", "prior", *base, "--out", chain.root / "renderer")
    assert code == 2 and "already holds what `digit train renderer` wrote" in err
    code, _, err = run(
        *("train", "prior", *base, "--held-out", chain.root / "model", "--out", tmp_path / "run")
    )
    assert code == 2 and "holds no tokenised data set" in err
    code, _, err = run("train", "prior", *base, "--out", tmp_path / "run", "--batch", 10, "--gpus", 3)
    assert code == 2 and "does not divide among 3 processes" in err
    (tmp_path / "file").write_text("")
    code, _, err = run("train", "prior", *base, "--out", tmp_path / "file" / "run")
    assert code == 2 and "is a file" in err
    pixels = options(chain, "vqgan")
    code, _, err = run(
        *("train", "vqgan", *pixels, "--dry-run", "--out", tmp_path / "run", "--gpus", 2, "--sharded")
    )
    assert code == 2 and "no transformer blocks to shard" in err
    for wrong in (("--gpus", 0), ("--mfu", 1.5)):
        code, _, err = run("train", "prior", *base, "--out", tmp_path / "run", *wrong)
        assert code == 2 and wrong[0] in err
    if os.getuid():  # root may write anywhere
        (tmp_path / "kept").mkdir(mode=0o500)
        code, _, err = run("train", "prior", *base, "--out", tmp_path / "kept" / "run")
        assert code == 2 and "cannot be written" in err


def test_a_folder_in_which_another_process_trains(chain, run, tmp_path):
    (tmp_path / "run" / "state").mkdir(parents=True)
    with locked(tmp_path / "run" / "state", "taken"):
        code, _, err = run(
            *("train", "prior", "--codes", chain.root / "codes", "--out", tmp_path / "run", "--dry-run")
        )
    assert code == 2 and "another process is training" in err


def test_gpus_have_memory_and_speed():
    assert set(get_args(GPU)) == set(MEMORY)
    assert all(any(name in gpu for name in PEAKS) for gpu in MEMORY)


def test_what_a_newcomer_reads(chain, run, tmp_path):
    """Epochs, the warm-up that the run does not outlast, and times in units."""
    codes = ("--codes", chain.root / "codes", "--out", tmp_path / "run", "--dry-run")
    code, out, err = run(
        "train", "prior", *codes, "--width", 64, "--layers", 1, "--steps", 400, "--batch", 12
    )
    assert code == 0, err
    found = " ".join(out.split())
    assert "epochs 100.0" in found and "updates 400" in found
    assert "seconds on 1 x H100" in found
    assert "warm-up of 6,250 updates is longer than the run of 400" in err
    assert "measured on one H100" in err

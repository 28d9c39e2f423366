"""Two processes on two GPUs: what they tell each other, sharded training and its resume, and drawing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from digit.training.log import read

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}


@pytest.fixture(scope="module", autouse=True)
def two_gpus():
    if torch.cuda.device_count() < 2:
        pytest.skip(f"two GPUs are needed and {torch.cuda.device_count()} is here")


def python(*arguments):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for processes in (1, 2):
        python(Path(__file__).with_name("two_worker.py"), processes, folder)
        assert (folder / f"done-{processes}").exists()
    return folder


def losses(folder):
    return {line["step"]: line["loss"] for line in read(folder / "log.jsonl") if "loss" in line}


def test_rows_and_sums_travel_between_gpus(results):
    found = [json.loads((results / f"exchange-{number}.json").read_text()) for number in (0, 1)]
    for each in found:
        assert each["parts"] == [[0, 1, 2], [10, 11, 12, 13]] and each["total"] == [3.0, 3.0]
    if torch.cuda.is_initialized():
        assert [each["device"] for each in found] == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize("processes", [1, 2], ids=["whole", "sharded"])
def test_a_resumed_training_is_the_uninterrupted_one(results, processes):
    runs = [results / f"{name}-{processes}" for name in ("whole", "resumed")]
    assert losses(runs[0]) == losses(runs[1]) and list(losses(runs[0])) == list(range(1, 9))
    weights = [load_file(run / "weights.safetensors") for run in runs]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_two_sharded_train_as_one(results, record):
    one, two = (losses(results / f"whole-{processes}") for processes in (1, 2))
    apart = max(abs(one[step] - two[step]) for step in one)
    record("largest distance of a loss", apart)
    assert apart < 0.01  # nats; sums in bfloat16 are rounded in another order


def test_two_draw_what_one_draws(tmp_path):
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        how = ["--seeds", "0-31", "--batch", 8, "--codes", "--processes", processes]
        python("-m", "digit", "sample", "--out", out, *how)
        files = [path for path in out.iterdir() if path.is_file() and path.name != ".digit.json"]  # the call
        found.append({path.name: path.read_bytes() for path in files})
    assert found[0] == found[1] and len(found[0]) > 32

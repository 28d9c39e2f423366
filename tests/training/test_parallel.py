"""One, two and four processes with gloo are one run; parallel_worker.py has the scenarios."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from digit.training.log import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    worker = str(Path(__file__).with_name("parallel_worker.py"))
    processes = [
        subprocess.Popen(
            [sys.executable, worker, str(number), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(4)
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, "\n".join(said)
    return folder


def numbers(folder, name):
    """Losses, then norms, then the count of skipped updates."""
    return json.loads((folder / f"{name}.json").read_text())


def agree(folder, one, other, *, rtol=1e-5, atol=1e-6):
    a, b = (load_file(folder / f"{name}.safetensors") for name in (one, other))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
    torch.testing.assert_close(numbers(folder, one), numbers(folder, other), rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("one", "many"),
    [("micro4-1", "micro4-2"), ("micro2-1", "micro2-2"), ("micro2-1", "micro2-4")],
)
def test_the_same_micro_batches_give_the_same_weights(results, one, many):
    """Dropout and dropped labels included, under clipping, with an average."""
    agree(results, one, many)


def test_other_micro_batches_draw_other_masks(results):
    assert abs(numbers(results, "micro4-1")[3] - numbers(results, "micro2-1")[3]) > 1e-4


def test_compiled(results):
    agree(results, "micro4-1", "compiled-2")


def test_an_update_that_one_process_cannot_use_is_skipped_in_all(results):
    *rest, skipped = numbers(results, "poisoned-2")
    assert skipped == 2 and len(rest) == 2 * 4


def test_a_vqgan_follows_the_batch_of_all(results):
    """Codebook, balance, discriminators that begin later: as one process with the whole batch."""
    agree(results, "vqgan-1", "vqgan-2", rtol=1e-4, atol=1e-5)


def test_one_then_two_then_four_then_one(results):
    final = load_file(results / "run/state/step-0000012/model.safetensors")
    torch.testing.assert_close(final, load_file(results / "whole/state/step-0000012/model.safetensors"))
    logs = [[r for r in read(results / name / "log.jsonl") if "loss" in r] for name in ("run", "whole")]
    assert [record["step"] for record in logs[0]] == [3, 6, 9, 12]
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in logs[0]] == pytest.approx([r[key] for r in logs[1]], rel=1e-5)

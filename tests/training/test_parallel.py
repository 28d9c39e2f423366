"""One, two and four processes with gloo are one run; parallel_worker.py has the scenarios."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from digit.errors import DigitError
from digit.training import checkpoint
from digit.training.log import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    worker = str(Path(__file__).with_name("parallel_worker.py"))
    command = [sys.executable, worker, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def numbers(folder, name):
    """Losses, then norms, then the count of skipped updates."""
    return json.loads((folder / f"{name}.json").read_text())


def agree(folder, one, other, *, rtol=1e-5, atol=1e-6):
    a, b = (load_file(folder / f"{name}.safetensors") for name in (one, other))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
    torch.testing.assert_close(numbers(folder, one), numbers(folder, other), rtol=rtol, atol=atol)


# Whether each process has all weights or a part.
@pytest.mark.parametrize(
    ("one", "many"),
    [
        *[("micro4-1", "micro4-2"), ("micro2-1", "micro2-2"), ("micro2-1", "micro2-4")],
        *[("micro4-1", "shards-2"), ("micro2-1", "shards-micro2-2")],
    ],
)
def test_the_same_micro_batches_give_the_same_weights(results, one, many):
    """Dropout and dropped labels included, under clipping, with an average."""
    agree(results, one, many)


def test_other_micro_batches_draw_other_masks(results):
    assert abs(numbers(results, "micro4-1")[3] - numbers(results, "micro2-1")[3]) > 1e-4


@pytest.mark.parametrize("name", ["compiled-2", "compiled-shards-2"])
def test_compiled(results, name):
    agree(results, "micro4-1", name)


def test_all_blocks_share_one_compiled_graph(results):
    assert [(results / f"graphs-{number}.txt").read_text() for number in (0, 1)] == ["1", "1"]


def test_an_update_that_one_process_cannot_use_is_skipped_in_all(results):
    *rest, skipped = numbers(results, "poisoned-2")
    assert skipped == 2 and len(rest) == 2 * 4
    agree(results, "poisoned-2", "shards-poisoned-2")
    agree(results, "poisoned-2", "shards-fused-2")


def test_shards_in_bf16(results):
    """Near the weights of float32, and not the same."""
    agree(results, "micro4-1", "shards-bf16-2", rtol=0, atol=1e-2)
    assert abs(numbers(results, "micro4-1")[3] - numbers(results, "shards-bf16-2")[3]) > 1e-6


def test_a_stage_without_blocks_is_not_sharded(results):
    assert (results / "no-blocks.txt").read_text().startswith("VQGANLoss has no transformer blocks")


def test_a_vqgan_follows_the_batch_of_all(results):
    """Codebook, balance, discriminators that begin later: as one process with the whole batch."""
    agree(results, "vqgan-1", "vqgan-2", rtol=1e-8, atol=1e-10)


def moments(folder, name):
    return dict(checkpoint.load(folder / name / "state/step-0000012").optimizer)


@pytest.mark.parametrize("name", ["run", "parts"])
def test_one_then_two_then_four_then_one(results, name):
    """Weights, moments, average, artifact, log and measurements; in `parts` two and four are sharded."""
    whole, run = (load_file(results / each / "artifact.safetensors") for each in ("whole", name))
    torch.testing.assert_close(run, whole)
    torch.testing.assert_close(moments(results, name), moments(results, "whole"), rtol=1e-4, atol=1e-7)
    logs = [read(results / each / "log.jsonl") for each in (name, "whole")]
    for key in ("loss", "grad_norm"):
        got, expected = ([(r["step"], r[key]) for r in log if key in r] for log in logs)
        assert [step for step, _ in got] == [3, 6, 9, 12]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)
    scores = [{r["step"]: r["score"] for r in log if "score" in r} for log in logs]
    assert set(scores[0]) == {3, 6, 9, 12} and scores[0][12] == pytest.approx(scores[1][12], rel=1e-5)
    assert (results / name / "samples/step-000009.png").is_file()


def test_batch_statistics_go_on_where_they_were(results):
    """With the same number of processes bit for bit; the statistics are the main process's."""
    states = [
        load_file(results / name / "state/step-0000006/model.safetensors")
        for name in ("statistics", "statistics-resumed")
    ]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert states[0]["norm.running_mean"].any()


def test_states_of_shards(results):
    folder = results / "parts/state/step-0000009"
    files = json.loads((folder / "state.json").read_text())["files"]
    names = [f"{kind}-{k:05d}-of-00004.safetensors" for kind in ("model", "optimizer") for k in (1, 2, 3, 4)]
    assert sorted(files) == names == sorted(path.name for path in folder.glob("*.safetensors"))
    sizes = [(folder / name).stat().st_size for name in names[:4]]
    assert max(sizes) < 1.5 * min(sizes)
    assert not list(folder.parent.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["model-00003-of-00004.safetensors", "optimizer-00002-of-00004.safetensors"])
def test_a_flipped_byte_in_a_shard_is_found(results, name):
    folder = results / "parts/state/step-0000009"
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        with pytest.raises(DigitError, match=f"{name} is absent or is not what was written"):
            checkpoint.load(folder)
    finally:
        (folder / name).write_bytes(before)
    assert checkpoint.load(folder).step == 9


def test_a_disk_that_refuses_one_part_stops_all(results):
    sentences = [(results / f"full-{number}.txt").read_text() for number in (0, 1)]
    assert all("No space left on device" in each for each in sentences)
    assert [path.name for path in (results / "full/state").glob("step-*")] == ["step-0000003"]
    assert checkpoint.load(results / "full/state/step-0000003").step == 3
    assert not list((results / "full/state").glob(".tmp-*"))

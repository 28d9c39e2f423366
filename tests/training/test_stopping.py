"""Two processes stop together, whatever stops one of them; stopping_worker.py has the scenarios."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from digit.training import checkpoint
from digit.training.log import read, read_status

from .stages import records

WORKER = Path(__file__).with_name("stopping_worker.py")
ENDS = {  # how both end, and the newest state then
    "one signal": ("Terminated", 5),
    "evaluation": ("KeyboardInterrupt", 6),
    "compiling": ("Terminated", None),
    "waiting": ("Terminated", 5),
    "full": ("DigitError", 4),
    "limit": ("returned", 0),
    "locked": ("DigitError", None),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("stopping")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[2])}
    command = [sys.executable, str(WORKER), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return out


def ends(folder, name):
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("scenario", ENDS)
def test_both_stop_alike_and_the_same_command_goes_on(folder, scenario):
    out, (ended, step) = folder / scenario, ENDS[scenario]
    both = ends(folder, scenario)
    assert [each["ended"] for each in both] == [ended] * 2, both
    assert both[0]["said"] == both[1]["said"]
    assert max(each["seconds"] for each in both) < 45  # what is interrupted would last for a minute
    assert [each["ended"] for each in ends(folder, f"{scenario} again")] == ["returned"] * 2
    resumed = [record["event"] for record in read(out / "log.jsonl") if "resumed" in record.get("event", "")]
    assert resumed == ([] if step is None else [f"resumed from step-{step:07d}"])
    status = read_status(out)
    assert status is not None and status.finished
    name = "state/step-0000009/model.safetensors"
    whole, again = (load_file(each / name) for each in (folder / "whole", out))
    assert all((whole[key] == again[key]).all() for key in whole)
    assert records(out) == records(folder / "whole")


def test_only_the_main_process_writes(folder):
    assert (folder / "whole/artifact-0").exists() and not (folder / "whole/artifact-1").exists()
    steps = [record["step"] for record in records(folder / "whole")]
    assert steps == [2, 3, 4, 6, 6, 8, 9, 9]


def test_sentences(folder):
    assert "step-0000008 cannot be written" in ends(folder, "full")[1]["said"]
    assert "another process is training" in ends(folder, "locked")[1]["said"]


def test_a_process_whose_partner_is_gone_ends_quietly(folder):
    """The partner vanished in the update after step 5; the state of step 4 is whole."""
    left = json.loads((folder / "lost-0.json").read_text())
    assert left["ended"] == "Terminated" and left["seconds"] < 45
    assert not (folder / "lost-1.json").exists()
    assert [each["ended"] for each in ends(folder, "lost again")] == ["returned"] * 2
    assert checkpoint.paths(folder / "lost/state")[-1].name == "step-0000009"

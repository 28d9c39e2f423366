"""The scripts for several GPUs: valid bash, real commands; a job that is stopped goes back into the queue."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests_support import note_calls

from digit.run import main as command_line

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PAGES = [EXPERIMENTS.parent / "docs" / name for name in ("scaling.md", "many-gpus.md")]
SLURM, CHAIN = EXPERIMENTS / "slurm" / "train.sh", EXPERIMENTS / "several_gpus.sh"


def commands(path: Path) -> list[str]:
    """The digit commands in a script and in its first lines, as arguments of `digit`."""
    found = []
    for line in path.read_text().splitlines():
        line = re.sub(r"^#\s*", "", line)
        match = re.search(r"(?:^|  )(?:together )?digit ((?!VERB).*)", line) or re.match(
            r"sbatch .*experiments/slurm/train\.sh (.*)", line
        )
        if match and not line.endswith("."):
            found.append(re.sub(r"\$\{?(\w+)\}?", "8", match[1].replace('"$@"', "info x")))
    return found


def commands_of_page(path: Path) -> list[str]:
    """The digit commands in a page's blocks of bash, started by torchrun or sbatch or not."""
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(), flags=re.DOTALL)
    pattern = r"^(?:torchrun .* -m -- digit|sbatch .*/train\.sh|digit) (.*)"
    return [found[1] for block in blocks for line in block.splitlines() if (found := re.match(pattern, line))]


COMMANDS = [(path.name, line) for path in (SLURM, CHAIN) for line in commands(path)]
COMMANDS += [(page.name, line) for page in PAGES for line in commands_of_page(page)]


def test_there_are_commands_to_test():
    assert len(COMMANDS) >= 15
    assert [len(commands_of_page(page)) for page in PAGES] == [1, 2]
    verbs = {tuple(shlex.split(line)[:2]) for _, line in COMMANDS}
    assert {("train", "prior"), ("train", "vqgan"), ("evaluate", "images")} <= verbs
    assert {"fit", "tokenize", "sample"} <= {verb for verb, _ in verbs}


@pytest.mark.parametrize(("script", "line"), COMMANDS)
def test_every_command_parses(script, line, monkeypatch):
    verbs, called = note_calls(command_line.VERBS)
    monkeypatch.setattr(command_line, "VERBS", verbs)
    assert command_line.run(shlex.split(line)) == 0
    assert len(called) == 1


@pytest.mark.parametrize("script", [SLURM, CHAIN], ids=lambda path: path.name)
def test_valid_bash(script):
    assert os.access(script, os.X_OK)
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


SCONTROL = """#!/bin/bash
echo "$@" >> "$NOTES/scontrol"
[ "$1" = show ] && printf 'one\\ntwo\\n'
exit 0
"""
SRUN = """#!/bin/bash
echo "$@" > "$NOTES/srun.part"
trap 'sleep 0.3; echo saved > "$NOTES/saved"; exit 143' TERM
mv "$NOTES/srun.part" "$NOTES/srun"
for _ in $(seq "${TENTHS:-1}"); do sleep 0.1; done
exit "${CODE:-0}"
"""


def job(folder: Path, **settings: str) -> subprocess.Popen[str]:
    """The script as SLURM would start it, with a srun and a scontrol that note what they are told."""
    programs = folder / "programs"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "NOTES": str(folder)}
    command = ["bash", SLURM, "train", "prior", "--codes", "a b", "--out", "run"]
    return subprocess.Popen(
        command, env={**path, **slurm, **settings}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_job_runs_one_agent_a_machine(tmp_path):
    done = job(tmp_path, SLURM_GPUS_ON_NODE="4")
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    told = (tmp_path / "srun").read_text()
    assert "--nnodes=2 --nproc-per-node=4" in told and "--rdzv-endpoint=one:29500" in told
    assert told.endswith("-m -- digit train prior --codes a b --out run\n")
    assert "requeue" not in (tmp_path / "scontrol").read_text()


def test_bad_input_is_not_tried_again(tmp_path):
    done = job(tmp_path, CODE="2")
    done.communicate(timeout=120)
    assert done.returncode == 2
    assert "requeue" not in (tmp_path / "scontrol").read_text()


def test_a_stopped_job_saves_and_is_queued_again(tmp_path):
    running = job(tmp_path, TENTHS="100")
    while not (tmp_path / "srun").exists():
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    told, errors = running.communicate(timeout=120)
    assert running.returncode == 143, errors
    assert (tmp_path / "saved").exists()  # the script waited for it
    assert "back into the queue" in told
    assert "requeue 7" in (tmp_path / "scontrol").read_text()

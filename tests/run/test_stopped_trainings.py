"""A training that cannot write, and commands that are told to end: a sentence, an exit code, whole files."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from digit import files
from digit.errors import Terminated
from digit.run import main
from digit.run.processes import SENTENCE
from digit.training import checkpoint, log
from digit.weights.artifact import load


def prior(chain, out, steps):
    options = (
        f"--codes {chain.root}/codes --out {out} --steps {steps} --width 16 --layers 1 --heads 2 --batch 4 "
        "--warmup 1 --device cpu --log-every 1 --save-every 2 --sample-every 3"
    )
    return "train", "prior", *options.split()


@pytest.mark.parametrize("name", ["state.json", "log.jsonl", "status.json", "loss.png", "step-000003.png"])
def test_a_disk_that_fills_in_a_training(chain, run, tmp_path, monkeypatch, name):
    """The training's own thread writes some of these, the one beside it others."""
    monkeypatch.setattr(log, "PLOT_INTERVAL", 0.0)
    monkeypatch.setattr(log, "draw", lambda records, path: files.write_text_atomic(path, "drawn"))
    assert run(*prior(chain, tmp_path, 2))[0] == 0
    flush, nothing = files._flush, Path("/dev/full")

    def full(path):
        if name in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_flush", full)
        if name == "log.jsonl":
            patch.setattr(log, "_opened", lambda *_: nothing.open("ab", buffering=0))
        code, shown, err = run(*prior(chain, tmp_path, 5))
    assert code == 2, err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("digit: ") and "space left" in sentence and "Traceback" not in err
    assert str(tmp_path) in sentence and files.TEMPORARY not in sentence
    assert not shown
    found = checkpoint.load_newest(tmp_path / "state", warn=pytest.fail)
    assert found is not None and found.step >= 2
    assert not list(tmp_path.rglob(f"{files.TEMPORARY}*"))
    load(tmp_path, kind="prior")
    assert run(*prior(chain, tmp_path, 5))[0] == 0


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_what_ends_a_command_has_its_code(run, monkeypatch, raised, code):
    def info(path: Path) -> dict:
        """What is there."""
        raise raised

    verb = SimpleNamespace(function=lambda: info, together=False)
    monkeypatch.setitem(main.VERBS, "info", verb)
    assert run("info", "--path", "x") == (code, "", f"{SENTENCE}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_libraries_are_loaded(number):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-X", "importtime", "-m", "digit", "info", "."]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith(b"torch._utils"):  # within the import of torch
                break
        process.send_signal(number)
        rest, out = process.stderr.read().decode(), process.stdout.read()
        process.wait()
    assert process.returncode == 128 + number
    assert "Traceback" not in rest and rest.splitlines()[-1].startswith("digit: interrupted") and not out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_process_waits_for_the_others(number):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    told |= {"PYTHONPATH": str(Path(__file__).parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    program = "from digit.distributed import joined\nfrom digit.run.processes import by_exception\n"
    program += "by_exception()\nwith joined(): pass"
    with subprocess.Popen([sys.executable, "-c", program], env=os.environ | told) as process:
        while not answers(port):  # a store, in which the others would meet it
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(120) == -number


def answers(port):
    with socket.socket() as connection:
        return connection.connect_ex(("localhost", port)) == 0

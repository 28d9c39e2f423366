"""Joining processes and leaving them, where there are GPUs: nothing here needs one."""

import atexit
import os
import socket

import pytest
import torch
import torch.distributed as dist

from digit import distributed
from digit.distributed import joined
from digit.errors import DigitError
from digit.run import device
from digit.run.processes import LAUNCHER, run_together


@pytest.fixture
def gpus(monkeypatch):
    """The first of two processes on a machine with two GPUs; what is done to the group and before the end."""
    done = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda place: done.append(str(place)))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **how: done.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("destroyed"))
    monkeypatch.setattr(distributed, "wait", lambda: done.append("met"))
    monkeypatch.setattr(atexit, "register", lambda *call: done.append(call))
    return done


def test_all_meet_before_the_group_is_destroyed(gpus):
    with joined():
        pass
    assert gpus == ["cuda:0", "cpu:gloo,cuda:nccl", "met", "destroyed"]


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("bad"), 1), (SystemExit(2), 2), (SystemExit(), 0), (SystemExit("no"), 1)]
)
def test_a_process_that_fails_alone_waits_for_nobody(gpus, monkeypatch, error, code):
    """NCCL destroys and aborts with all processes of a machine only, and the others may wait for this one."""
    with pytest.raises(type(error)), joined():
        raise error
    assert gpus[:2] == ["cuda:0", "cpu:gloo,cuda:nccl"]
    [(end, what)] = gpus[2:]

    class Gone(BaseException):
        pass

    def gone(code):
        raise Gone(code)

    monkeypatch.setattr(os, "_exit", gone)
    with pytest.raises(Gone) as left:
        end(what)
    assert left.value.args == (code,)


def test_more_processes_than_gpus(gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(DigitError, match="3 processes need a GPU each and this machine has 2"), joined():
        pass
    assert gpus == []


def test_each_process_has_a_gpu_of_its_own(gpus, monkeypatch):
    monkeypatch.setattr(device, "world_size", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [str(device.choose_device(name)) for name in (None, "cuda", "cuda:1", "cpu")] == [
        *["cuda:1"] * 3,
        "cpu",
    ]
    with pytest.raises(DigitError, match="device cuda:0: each of several processes"):
        device.choose_device("cuda:0")


def test_processes_meet_though_nobody_knows_the_name_of_the_machine(monkeypatch):
    for name in ("OMP_NUM_THREADS", LAUNCHER):  # which starting processes sets
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(socket, "getfqdn", lambda *_: "nobody-knows-this.invalid")
    script = "import os, sys; sys.exit(os.environ['MASTER_ADDR'] != 'localhost')"
    assert run_together([], 1, program=("-c", script)) == 0

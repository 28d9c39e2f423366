"""Which device a command takes; several processes are in tests/test_distributed.py."""

import os

import pytest
import torch

from digit.errors import DigitError
from digit.run.device import autocast, choose_device


def test_the_suite_sees_no_gpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and not torch.cuda.is_available()


def test_without_a_name_it_is_the_gpu_if_there_is_one(monkeypatch):
    assert choose_device(None).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device(None).type == "cuda"
    assert choose_device("cpu") == torch.device("cpu")


def test_what_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    unknown = ("", "gpu", "tpu", "xpu", "meta", "cpu:x", "cuda:-1", "cuda:255", "cpu:7", "mps:", "CUDA")
    absent = ("cuda", "cuda:7", "cuda:99", "mps", "mps:0")
    for name, words in (*((n, "unknown device") for n in unknown), *((n, "no such GPU") for n in absent)):
        with pytest.raises(DigitError, match=f"^device[ =]{name}: .*{words}"):
            choose_device(name)


def test_a_macs_gpu_is_taken_by_name(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps").type == "mps" and choose_device(None).type == "cpu"
    with pytest.raises(DigitError, match=r"^device mps: this command adds in float64"):
        choose_device("mps", float64=True)


def test_a_cpu_computes_in_float32():
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32

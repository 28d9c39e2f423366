"""Without Triton nothing is tested here; its interpreter runs the kernels."""

import importlib.util
from functools import partial

import pytest

import digit.fast
from digit.nn import forms

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py", "kernels/test_*.py"]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """The interpreter computes all of a tile, also where it lies outside: tiles that fit the tests' sizes."""
    from digit.fast.kernels import attention, linear, nearest

    monkeypatch.setattr(attention, "BLOCK", 4)
    monkeypatch.setattr(attention, "WINDOW", 8)
    monkeypatch.setattr(linear, "tile", lambda *shape: (4, 4, 16, 1, 1))
    monkeypatch.setattr(linear, "few_tile", lambda *shape: (4, 1))
    monkeypatch.setattr(nearest, "scan", partial(nearest.scan, tiles=nearest.Tiles(16, 16, 16)))


@pytest.fixture
def of_both(monkeypatch):
    """What work gives by plain functions and by forms, which a CPU interprets."""
    monkeypatch.setattr(digit.fast, "usable", lambda device: True)

    def run(work):
        with forms.plain():
            plain = work()
        return plain, work()

    return run

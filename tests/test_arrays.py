"""NumPy's files that lie are refused in a sentence, and take no memory before."""

import io
import random
import resource

import numpy as np
import pytest

from digit.arrays import READERS_RAISE, array_in
from digit.errors import DigitError
from torture import mutations


def _read(path, **how):
    with path.open("rb") as file:
        return array_in(file, path, **how)


def test_an_array_is_a_map_of_its_file(tmp_path):
    path, rows = tmp_path / "a.npy", np.arange(12, dtype=np.uint16).reshape(3, 4)
    np.save(path, rows)
    assert np.array_equal(_read(path), rows) and not _read(path).flags.writeable
    own = _read(path, mode="c")
    own[0, 0] = 9
    assert np.array_equal(_read(path), rows)


@pytest.mark.parametrize(
    "head",
    [
        "{((((((",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (1099511627776,), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (1180591620717411303424,), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': 'x', 'fortran_order': None, 'shape': ('a',), }",
        "__import__('os')",
        "",
    ],
)
def test_a_header_that_lies_is_one_sentence(head, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\1\0v\0" + head.encode().ljust(117) + b"\n" + bytes(100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DigitError, match=r"is no array of numbers .*: make it again$") as refused:
        _read(path, remedy="make it again")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_whatever_numpy_says_of_odd_files_is_known(tmp_path):
    draw, path, data = random.Random(0), tmp_path / "a.npy", io.BytesIO()
    np.save(data, np.arange(24, dtype=np.uint16).reshape(2, 3, 4))
    refused = 0
    for _ in range(500):
        path.write_bytes(mutations.npy(data.getvalue(), draw))
        try:
            _read(path)
        except DigitError:
            refused += 1
    assert 100 < refused < 450


def test_a_header_of_more_than_can_be_mapped_is_one_sentence(tmp_path, monkeypatch):
    """It is told so here alone: elsewhere lack of memory is no damage."""
    np.save(tmp_path / "a.npy", np.arange(3))
    monkeypatch.setattr(np, "load", lambda *_, **__: (_ for _ in ()).throw(MemoryError("no room")))
    with pytest.raises(DigitError, match=r"is no array of numbers \(no room\)"):
        _read(tmp_path / "a.npy")
    assert MemoryError not in READERS_RAISE

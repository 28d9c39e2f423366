"""digit.picture_tokenizer: what is a tokenizer, and what names code."""

import subprocess
import sys
from pathlib import Path

import pytest

import digit
from digit.errors import DigitError
from digit.picture_tokenizer import PictureTokenizer, names_code


def test_an_object_with_encode_is_one():
    assert isinstance(object.__new__(digit.Tokenizer), PictureTokenizer)
    assert not isinstance(3, PictureTokenizer)
    with pytest.raises(DigitError, match="tokenizer: give a path or a PictureTokenizer, not 3"):
        digit.tokenize("anywhere", "out", tokenizer=3)  # pyright: ignore[reportArgumentType]


def test_what_lies_on_the_disk_is_no_name_of_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names_code(Path("a.b:c.d")) and names_code("mine.py:x")
    for other in ("runs/tokenizer", "cifar10", "a:", ":b", "a:b/c", "a:1", "owner/name", Path("x"), 3, None):
        assert not names_code(other)
    (tmp_path / "odd:name").mkdir()
    assert not names_code("odd:name")


def test_help_needs_no_torch_for_it():
    code = "import digit.run.options, digit.run.settings, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "False", done.stderr

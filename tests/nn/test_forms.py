"""A form takes the calls that it can, the plain function the others."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from digit.nn import forms


@forms.replaceable
def double(x: int, *, times: int = 1) -> str:
    """x twice, `times` times."""
    return f"plain {x * 2**times}"


@pytest.fixture
def asked(monkeypatch):
    """The calls that the form was asked to take; it takes those of even numbers."""
    calls = []

    def form(x, **how):
        calls.append((x, how))
        return NotImplemented if x % 2 else f"form {x}"

    monkeypatch.setitem(sys.modules, "some.forms", SimpleNamespace(double=form))
    monkeypatch.setattr(forms, "provider", "some.forms")
    return calls


def test_the_form_is_asked_first_and_may_refuse(asked):
    assert double(4, times=2) == "form 4"
    assert double(3, times=2) == "plain 12"
    assert asked == [(4, {"times": 2}), (3, {"times": 2})]


def test_inside_plain_nobody_is_asked(asked):
    with pytest.raises(ZeroDivisionError), forms.plain():
        with forms.plain():
            assert double(4) == "plain 8"
        assert double(4) == "plain 8"
        raise ZeroDivisionError
    assert not asked and double(4) == "form 4"
    assert double.plain(4) == "plain 8" and double.__doc__ == "x twice, `times` times."


def test_without_a_provider_the_plain_function_runs(monkeypatch):
    monkeypatch.setattr(forms, "provider", None)
    assert double(4) == "plain 8"


def test_a_form_that_is_not_there_is_an_error(monkeypatch, asked):
    monkeypatch.setitem(sys.modules, "some.forms", SimpleNamespace())
    with pytest.raises(AttributeError):
        double(4)


def test_the_package_names_its_forms_and_imports_neither_them_nor_torch():
    code = "import sys, digit; from digit.nn import forms; print(forms.provider);"
    code += "print([name for name in ('torch', 'digit.fast') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["digit.fast", "[]"], done.stderr

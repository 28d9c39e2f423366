"""A bar on a terminal, a plain line every ten seconds elsewhere, nothing from other processes."""

import io
import sys

import pytest

import digit.progress
from digit.progress import Bar, progress


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have gone by, for the test to change."""
    seconds = [0.0]
    monkeypatch.setattr(digit.progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_plain_line_every_ten_seconds_with_the_time_left(clock, capsys):
    with progress("work", 10) as advance:
        for second in range(1, 25):
            clock[0] = float(second)
            advance(int(second % 5 == 0))
    assert capsys.readouterr().err == "work: 2/10, 0:00:40 left\nwork: 4/10, 0:00:30 left\n"


def test_nobody_knows_how_many(clock, capsys):
    with progress("work", None) as advance:
        clock[0] = 10.0
        advance(3)
    assert capsys.readouterr().err == "work: 3 done\n"


def test_what_was_done_before_does_not_count_for_the_speed(clock, capsys):
    with Bar("work", 10, done=8) as bar:
        clock[0] = 12.0
        bar.note("loss 1")
        bar(1)
    assert capsys.readouterr().err == "work: 9/10, 0:00:12 left, loss 1\n"


@pytest.mark.parametrize("silent", ["process", "asked"])
def test_others_are_silent(clock, capsys, monkeypatch, silent):
    monkeypatch.setattr(digit.progress, "is_main", lambda: silent != "process")
    with Bar("work", 10, shown=silent != "asked") as bar:
        clock[0] = 12.0
        bar(1)
        bar.note("more", now=True)
        bar.say("a line")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_goes(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bar("work", 4) as bar:
        bar(3)
        bar.note("loss [1.5]")
        bar.say("a [line] that stays")
        bar._bar.refresh()
    shown = terminal.getvalue()
    assert "3/4" in shown and "loss [1.5]" in shown and "a [line] that stays" in shown and "\x1b[2K" in shown

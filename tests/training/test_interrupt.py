"""The first signal waits for a safe place, the second does not wait; `attempt` is a safe place itself."""

import signal

import pytest

from digit.distributed import handled
from digit.errors import Terminated
from digit.training.interrupt import Interrupts


def test_a_signal_that_another_process_told_of_is_the_first_when_it_comes():
    interrupts = Interrupts()
    with handled(interrupts.handle):
        interrupts.signal = signal.SIGTERM  # as the processes agreed
        signal.raise_signal(signal.SIGTERM)
        assert not interrupts.insisted
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_the_first_signal_waits_and_the_second_does_not(number, error):
    before = signal.getsignal(number)
    interrupts = Interrupts()
    with handled(interrupts.handle):
        interrupts.check()
        signal.raise_signal(number)
        assert interrupts.signal == number and not interrupts.insisted
        with pytest.raises(error):
            interrupts.check()
        with pytest.raises(error):
            signal.raise_signal(number)
        assert interrupts.insisted
    assert signal.getsignal(number) is before


def test_what_is_attempted_is_broken_off_and_gives_none():
    done = []

    def long():
        done.append("begun")
        signal.raise_signal(signal.SIGTERM)
        done.append("over")

    interrupts = Interrupts()
    with handled(interrupts.handle):
        assert interrupts.attempt(lambda: 3) == 3
        assert interrupts.attempt(long) is None
        assert interrupts.attempt(lambda: 3) is None  # nothing is begun after a signal
    assert done == ["begun"] and interrupts.signal == signal.SIGTERM


def test_an_interruption_that_the_work_raises_itself_counts():
    def raises():
        raise KeyboardInterrupt

    interrupts = Interrupts()
    with handled(interrupts.handle):
        assert interrupts.attempt(raises) is None
    assert interrupts.signal == signal.SIGINT

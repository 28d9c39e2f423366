import threading

import numpy as np
import pytest
import torch

from digit.data.ahead import Ahead, sent
from digit.errors import DigitError


def test_a_step_has_its_value_whatever_was_asked_before():
    made = Ahead(lambda step: step * 10)
    assert [made(step) for step in (0, 1, 2, 7, 3, 3, 0)] == [0, 10, 20, 70, 30, 30, 0]


def test_the_next_step_is_made_in_the_background_and_once():
    calls, next_one = [], threading.Event()

    def make(step):
        calls.append((step, threading.current_thread() is threading.main_thread()))
        if step == 1:
            next_one.set()
        return step

    made = Ahead(make)
    made(0)
    assert next_one.wait(10)  # nobody has asked for it
    made(1)
    assert calls[:2] == [(0, False), (1, False)]
    assert [step for step, _ in calls].count(1) == 1


def test_an_error_is_raised_where_its_step_is_asked_for():
    def make(step):
        if step == 1:
            raise DigitError("no step 1")
        return step

    made = Ahead(make)
    assert made(0) == 0
    with pytest.raises(DigitError, match="no step 1"):
        made(1)
    assert made(2) == 2


def test_arrays_and_tensors_are_sent_as_they_are():
    values = torch.arange(6, dtype=torch.int16).reshape(2, 3)
    for given in (values, values.numpy(), np.asfortranarray(values.numpy())):
        there = sent(given, torch.device("cpu"))
        assert there.dtype == torch.int16
        assert torch.equal(there, values)

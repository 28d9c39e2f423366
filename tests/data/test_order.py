import numpy as np
import pytest

from digit.data.order import order
from digit.errors import DigitError


def test_every_epoch_is_a_fresh_permutation_across_batch_borders():
    n, batch = 10, 4
    run = np.concatenate([order(3, step, batch, n) for step in range(10)])
    epochs = run.reshape(4, n)
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_of_thousands_of_epochs_is_refused_at_once():
    assert len(order(0, 0, 5000, 5)) == 5000
    with pytest.raises(
        DigitError, match=r"16,777,216 would hold each of 24 pictures 699,050 times: give a sm"
    ):
        order(0, 0, 2**24, 24)


def test_a_step_does_not_depend_on_what_came_before():
    alone = order(0, 7, 3, 5)
    for step in range(20):
        order(0, step, 3, 5)
    assert np.array_equal(order(0, 7, 3, 5), alone)
    assert not np.array_equal(order(1, 0, 50, 50), order(0, 0, 50, 50))


def test_batch_size_only_cuts_the_same_sequence():
    whole = order(5, 0, 24, 7)
    assert np.array_equal(np.concatenate([order(5, step, 8, 7) for step in range(3)]), whole)


def test_the_order_never_changes_between_releases():
    assert order(0, 0, 12, 8).tolist() == [3, 2, 1, 6, 0, 7, 4, 5, 7, 4, 5, 1]


def test_a_batch_may_exceed_the_set_and_seeds_may_be_negative():
    assert sorted(order(-1, 0, 6, 2)) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("arguments", [(0, 0, 1, 0), (0, 0, 0, 1), (0, -1, 1, 1)])
def test_nothing_to_order_is_refused(arguments):
    with pytest.raises(DigitError, match="give a picture"):
        order(*arguments)

import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.inception_score import inception_score


@pytest.mark.parametrize("splits", [1, 10])
def test_torch_fidelity_agrees_on_a_number_that_splits_do_not_divide(splits: int):
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * torch.randn(537, 20, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits, splits=splits)
    mean, deviation = inception_score(logits.softmax(1), splits=splits)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-4, abs=1e-9)


def test_certain_and_even_guesses_score_the_number_of_classes():
    assert inception_score(torch.eye(10).repeat(30, 1), splits=1)[0] == pytest.approx(10)


def test_equal_guesses_score_one():
    assert inception_score(torch.full((50, 4), 0.25))[0] == pytest.approx(1)


def test_the_order_is_shuffled_unless_told():
    sorted_guesses = torch.eye(5).repeat_interleave(100, 0)
    assert inception_score(sorted_guesses, splits=5, seed=None)[0] == pytest.approx(1)
    assert inception_score(sorted_guesses, splits=5)[0] > 4.5


def test_what_has_no_score_is_refused():
    with pytest.raises(DigitError, match="3 pictures"):
        inception_score(torch.full((3, 4), 0.25))
    with pytest.raises(DigitError, match="NaN"):
        inception_score(torch.full((30, 4), torch.nan))

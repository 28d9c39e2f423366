"""What is refused before sampling begins, and what is let through."""

import pytest
import torch

from digit.errors import DigitError
from digit.nn.checks import check_codes, check_labels, check_prefix


@pytest.mark.parametrize("always", [False, True])
def test_labels_come_one_per_seed(always):
    how = {"classes": 3, "always": always, "guidance": 1.0}
    given = torch.tensor([0, 2])
    assert check_labels(2, given, **how) is given
    if not always:
        assert check_labels(2, None, **how).tolist() == [-1, -1]
        assert check_labels(2, given, **{**how, "guidance": 2.0}) is given
    for count, labels in ((0, None), (1, given), (2, given + 1), (2, given - 2)):
        with pytest.raises(DigitError):
            check_labels(count, labels, **how)


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        (None, {"always": True}, "a label for every seed"),
        (torch.tensor([0, -1]), {"always": True}, "a label for every seed"),
        (torch.tensor([0, 1]), {"always": True, "guidance": 2.0}, "label dropout"),
        (None, {"classes": 0, "guidance": 2.0}, "unconditional"),
        (torch.tensor([0, 0]), {"classes": 0}, "knows none"),
    ],
)
def test_a_prior_draws_as_it_was_trained(labels, changes, message):
    with pytest.raises(DigitError, match=message):
        check_labels(2, labels, **{"classes": 3, "always": False, "guidance": 1.0, **changes})


def test_who_refuses_is_named():
    with pytest.raises(DigitError, match="needs a renderer of classes"):
        check_labels(2, None, classes=0, always=False, guidance=2.0, of="renderer")


def test_a_prefix_is_of_the_priors_codes():
    check_prefix(2, torch.zeros(2, 0, dtype=torch.int64), length=4, codes=5)
    check_prefix(2, torch.tensor([[0, 4]] * 2), length=2, codes=5)
    for wrong in ([[0, 1]], [[0, 1, 2]] * 2, [[0, 5]] * 2, [[-1, 0]] * 2):
        with pytest.raises(DigitError):
            check_prefix(2, torch.tensor(wrong), length=2, codes=5)


def test_codes_are_those_that_the_renderer_reads():
    how = {"length": 2, "codes": 5}
    codes = torch.tensor([[0, 4], [3, 3]])
    check_codes(2, codes, **how)
    for count, given in ((1, codes), (0, codes[:0]), (2, codes[:, :1]), (2, codes + 1)):
        with pytest.raises(DigitError):
            check_codes(count, given, **how)

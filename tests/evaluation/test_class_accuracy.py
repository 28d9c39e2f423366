import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.class_accuracy import class_accuracies, class_accuracy

LOGITS = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 5], [9, 0, 1]])


def test_the_share_of_right_guesses():
    assert class_accuracy(LOGITS, torch.tensor([0, 1, 2, 0])) == 1
    assert class_accuracy(LOGITS, torch.tensor([0, 1, 1, 1])) == 0.5


def test_each_class_by_itself():
    shares = class_accuracies(LOGITS, torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(shares, torch.tensor([1, 0.5, torch.nan]).double(), equal_nan=True)


def test_labels_outside_the_classes_are_refused():
    for labels in ([0, 1, 2, 3], [0, 1, 2, -1]):
        with pytest.raises(DigitError, match="0 to 2"):
            class_accuracy(LOGITS, torch.tensor(labels))
    with pytest.raises(DigitError, match="no pictures"):
        class_accuracy(LOGITS[:0], torch.tensor([], dtype=torch.long))

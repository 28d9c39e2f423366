"""Which codes come back when a rendering is tokenised again."""

import pytest
import torch

from digit.errors import DigitError
from digit.evaluation.codes_back import codes_back


def test_the_share_is_that_of_each_picture():
    codes = torch.tensor([[1, 2, 3, 4], [5, 5, 5, 5], [7, 8, 9, 0]])
    again = torch.tensor([[1, 2, 3, 4], [5, 6, 5, 5], [8, 7, 0, 9]])  # the last: the right ones elsewhere
    assert codes_back(codes, again).tolist() == [1.0, 0.75, 0.0]


@pytest.mark.parametrize("k", [2, 50])
def test_codes_by_chance_come_back_as_chance_says(k):
    draw = torch.Generator().manual_seed(0)
    codes, again = torch.randint(k, (2, 400, 64), generator=draw)
    assert float(codes_back(codes, again).mean()) == pytest.approx(1 / k, abs=0.01)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((3, 4), (2, 4)), ((0, 4), (0, 4))])
def test_what_cannot_be_compared_is_refused(shapes):
    with pytest.raises(DigitError, match="cannot be compared"):
        codes_back(*(torch.zeros(shape, dtype=torch.int64) for shape in shapes))

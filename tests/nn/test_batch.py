"""Symbols beside codes; a batch in pieces: halved where memory ends, in order, and never for nothing."""

import pytest
import torch

from digit.nn.batch import END, in_pieces, with_end


@pytest.mark.parametrize(("room", "most", "sizes"), [
    (99, None, [10]), (99, 4, [4, 4, 2]), (3, None, [10, 5, 3, 3, 3, 1]), (1, 8, [8, 4, 2] + [1] * 10),
])  # fmt: skip
def test_pieces(room, most, sizes):
    asked = []

    def run(rows: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows))
        if len(rows) > room:
            raise torch.OutOfMemoryError("too much")
        return rows * 2

    batch = torch.arange(10)
    assert torch.equal(in_pieces(run, batch, most), batch * 2)
    assert asked == sizes


def test_one_row_that_does_not_fit_is_an_error():
    def run(rows: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        in_pieces(run, torch.zeros(3))


def test_nothing_gives_nothing():
    assert in_pieces(lambda rows: rows[:, :1], torch.zeros(0, 3)).shape == (0, 1)


def test_the_end_follows_codes_that_count_from_behind_the_specials():
    assert with_end(torch.tensor([[0, 7]]), 5).tolist() == [[5, 12, END]]

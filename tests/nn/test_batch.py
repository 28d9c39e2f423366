"""Symbols beside codes; a batch in pieces: halved where memory ends, in order, and never for nothing."""

import pytest
import torch

from digit.errors import DigitError
from digit.nn.batch import END, PixelBatch, in_equal_parts, in_pieces, rows, split, with_end


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


def test_every_tensor_is_cut_and_the_shares_add_up():
    batch = PixelBatch(torch.arange(10).view(5, 2), None)
    parts = split(batch, 2)
    assert rows(batch) == 5
    assert [share for _, share in parts] == [0.4, 0.4, 0.2]
    assert all(isinstance(part, PixelBatch) and part.labels is None for part, _ in parts)
    assert torch.equal(torch.cat([part.pixels for part, _ in parts]), batch.pixels)


def test_nested_and_scalar_members():
    batch = {"pair": (torch.arange(4), [torch.arange(4)]), "scale": torch.tensor(2.0), "name": "x"}
    (first, _), (second, _) = split(batch, 3)
    assert first["pair"][0].tolist() == [0, 1, 2] and second["pair"][1][0].tolist() == [3]
    assert second["scale"] is batch["scale"] and second["name"] == "x"


def test_a_small_batch_is_itself():
    batch = torch.zeros(3)
    assert split(batch, 3) == [(batch, 1.0)] and split(batch, None)[0][0] is batch


def test_no_tensor_no_batch():
    with pytest.raises(DigitError, match="holds no tensor"):
        rows({"name": "x"})


@pytest.mark.parametrize(
    ("side", "count", "seen"), [(64, 130, [64, 64, 2]), (65, 33, [16, 16, 2]), (8, 1, [2])]
)
def test_parts_have_a_size_of_their_own(side, count, seen):
    """No row is computed alone, and what was filled up does not come back."""
    sizes, rows = [], torch.arange(count)

    def run(first, second):
        sizes.append(len(first))
        return first + second[:, 0]

    found = torch.cat(list(in_equal_parts(run, rows, rows[:, None] * 10, side=side)))
    assert torch.equal(found, rows * 11) and sizes == seen

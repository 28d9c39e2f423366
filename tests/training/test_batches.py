import pytest
import torch

from digit.errors import DigitError
from digit.training.batches import rows, split

from .stages import Batch


def test_every_tensor_is_cut_and_the_shares_add_up():
    batch = Batch(torch.arange(10).view(5, 2), torch.arange(5))
    parts = split(batch, 2)
    assert rows(batch) == 5
    assert [share for _, share in parts] == [0.4, 0.4, 0.2]
    assert all(isinstance(part, Batch) and part.labels is None for part, _ in parts)
    assert torch.equal(torch.cat([part.x for part, _ in parts]), batch.x)


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

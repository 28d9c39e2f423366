import pytest
import torch

from digit.weights.storage import lossless, pack, unpack


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, -65504.0, 2.0**-24, 0.0], "float16"),  # its largest and its smallest number
        ([0.1], "float32"),
        ([65520.0], "float32"),
        ([2.0**-25], "float32"),
        ([1 + 2.0**-11], "float32"),
        ([], "float16"),
    ],
)
def test_lossless(values, expected):
    tensors = {"weight": torch.tensor(values), "counts": torch.tensor([70000, 2**40])}
    assert lossless(tensors) == expected
    if expected == "float16":
        assert torch.equal(unpack(pack(tensors, "float16", exact=set()))["weight"], tensors["weight"])


def test_one_tensor_decides_for_all():
    exact = torch.tensor([0.25])
    assert lossless({"a": exact, "b": exact / 3}) == lossless({"b": exact / 3, "a": exact}) == "float32"
